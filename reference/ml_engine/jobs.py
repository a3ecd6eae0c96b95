"""The ML Engine's jobs as rows: what was asked, how far it is, and whether the callback has been delivered."""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from reference.database import Database

Kind = Literal["train", "index"]
TERMINAL = frozenset({"completed", "failed", "cancelled"})

SCHEMA = """
create table if not exists jobs(
    job_id text primary key,
    kind text not null,
    tenant_id text not null,
    status text not null default 'pending',   -- pending, running, completed, failed, cancelled; the first terminal one stays
    target text not null,                     -- the folder in the models or indices bucket where the result goes
    request text not null,
    context text not null,                    -- what links the job to its run: idempotency key, run id, traceparent
    metrics text not null default '{}',
    error text,
    callback text,                            -- null: nothing to tell yet; then 'due', then 'sent'
    created_at text not null,
    ended_at text
);
create index if not exists jobs_open on jobs(status) where status in ('pending', 'running');
create index if not exists jobs_due on jobs(callback) where callback = 'due';
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job."""

    job_id: str
    kind: Kind
    tenant_id: str
    target: str
    request: dict[str, Any]
    context: dict[str, Any]
    status: str = "pending"
    metrics: dict[str, Any] | None = None
    error: str | None = None
    ended_at: str | None = None


class Jobs:
    """All jobs of this engine, over restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database.create(SCHEMA)

    async def add(self, job: Job) -> Job:
        """Take a job on; the same id again is the same job."""
        row = (job.job_id, job.kind, job.tenant_id, job.target, json.dumps(job.request), json.dumps(job.context), _now())
        sql = "insert or ignore into jobs(job_id, kind, tenant_id, target, request, context, created_at) values (?,?,?,?,?,?,?)"
        await self._database.run(lambda c: c.execute(sql, row))
        return job

    async def get(self, job_id: str) -> Job | None:
        found = await self._select("job_id = ?", job_id)
        return found[0] if found else None

    async def unfinished(self) -> list[Job]:
        """What a restart goes on with."""
        return await self._select("status in ('pending', 'running')")

    async def due(self) -> list[Job]:
        """Ended jobs nobody was told about yet, at most a hundred."""
        return await self._select("callback = 'due' order by ended_at limit 100")

    async def start(self, job_id: str) -> None:
        await self._execute("update jobs set status = 'running' where job_id = ? and status = 'pending'", job_id)

    async def end(self, job_id: str, status: str, metrics: dict[str, Any] | None = None, error: str | None = None) -> bool:
        """Set the outcome and owe the callback, in one transaction; whether this was the first outcome."""
        sql = (
            "update jobs set status = ?, metrics = ?, error = ?, ended_at = ?, callback = 'due' where job_id = ? and status in ('pending', 'running')"
        )
        return await self._execute(sql, status, json.dumps(metrics or {}), error, _now(), job_id) == 1

    async def told(self, job_id: str) -> None:
        """The callback lies on Kafka."""
        await self._execute("update jobs set callback = 'sent' where job_id = ?", job_id)

    async def _select(self, condition: str, *values: object) -> list[Job]:
        return await self._database.run(lambda c: [_job(row) for row in c.execute(f"select * from jobs where {condition}", values)])

    async def _execute(self, sql: str, *values: object) -> int:
        return await self._database.run(lambda c: c.execute(sql, values).rowcount)


def _job(row: sqlite3.Row) -> Job:
    return Job(
        job_id=row["job_id"],
        kind=row["kind"],
        tenant_id=row["tenant_id"],
        target=row["target"],
        request=json.loads(row["request"]),
        context=json.loads(row["context"]),
        status=row["status"],
        metrics=json.loads(row["metrics"]),
        error=row["error"],
        ended_at=row["ended_at"],
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
