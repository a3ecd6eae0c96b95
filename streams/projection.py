"""Shows the tenants' warehouse which training runs ended: `model_training_runs` is kept by an upsert that may be repeated and loses nothing.

The run's end leaves its id in `projection_queue` in the same transaction; here it is taken out again once the warehouse has the row.
"""

import asyncio
from typing import Any

import structlog

from streams.ledger.connection import Connection, is_conflict, is_outage

log = structlog.get_logger(__name__)

AT_ONCE = 500
PAUSE, LONG_PAUSE = 1.0, 60.0
_QUEUED = """
select q.run_id, r.tenant_id, r.state, r.started_at, r.finished_at, r.code, r.reason, r.version, q.version as queued
from projection_queue q left join runs r using (run_id) order by q.at limit $1 for update of q skip locked
"""
_SHOW = """
insert into model_training_runs as m (run_id, tenant_id, status, started_at, completed_at, code, reason, version)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (run_id) do update set status = excluded.status, started_at = excluded.started_at, completed_at = excluded.completed_at,
    code = excluded.code, reason = excluded.reason, version = excluded.version where m.version < excluded.version
"""
_SHOWN = """
delete from projection_queue q using unnest($1::uuid[], $2::bigint[]) shown (run_id, version)
where q.run_id = shown.run_id and q.version = shown.version
"""


class Projection:
    """The loop between ledger and warehouse, over a connection to each."""

    def __init__(self, ledger: Connection, warehouse: Connection, *, role: str | None) -> None:
        self._ledger, self._warehouse, self._role = ledger, warehouse, role
        self._trouble: str | None = None

    async def run(self) -> None:
        """Project until cancelled; whatever keeps the warehouse from taking rows is said once, and they wait."""
        while True:
            pause = PAUSE
            try:
                if await self.step() == AT_ONCE:
                    continue
                self._trouble = None
            except Exception as error:
                pause = PAUSE if is_outage(error) or is_conflict(error) else LONG_PAUSE
                await self._failed(error)
            await asyncio.sleep(pause)

    async def step(self) -> int:
        """Show what is queued; how many rows."""
        async with self._ledger.transaction() as raw:
            rows = await raw.fetch(_QUEUED, AT_ONCE)
            if not rows:
                return 0
            ended = [tuple(row)[:-1] for row in rows if row["finished_at"] is not None]
            await self._show(ended)
            await raw.execute(_SHOWN, [row["run_id"] for row in rows], [row["queued"] for row in rows])
            return len(rows)

    async def _show(self, runs: list[tuple[Any, ...]]) -> None:
        async with self._warehouse.transaction() as raw:
            if self._role:
                await raw.execute("select set_config('role', $1, true)", self._role)
            await raw.executemany(_SHOW, runs)

    async def _failed(self, error: Exception) -> None:
        await self._ledger.drop()
        await self._warehouse.drop()
        if (trouble := f"{type(error).__name__}: {error}"[:300]) != self._trouble:
            log.warning("model_training_runs is not kept up to date; the ended runs wait", code="projection_waits", reason=trouble)
        self._trouble = trouble
