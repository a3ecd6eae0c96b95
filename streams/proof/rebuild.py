"""`tidemill rebuild`: a tenant's runs, steps and pipeline heads are dropped and written anew from its journal, under the tenant's lock.

What only leases knew is gone then: steps that were open are ready or waiting, due now, and their fences are greater than any that was
ever given out. So an executor that still holds one is refused (`lost`), and the attempt is made again under the same idempotency key.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from streams.folded import Comparable, Data, State, Step
from streams.membership import WAKE_CHANNEL
from streams.proof.check import compared
from streams.proof.compare import Difference
from streams.proof.snapshot import Tenant, folded_of

ALIVE = "select count(*) from workers where lease_until > clock_timestamp()"
_TENANTS = "select tenant_id from tenant_heads where $1::text is null or tenant_id = $1 order by tenant_id"
_LOCK = "select seq from tenant_heads where tenant_id = $1 for update"
_JOURNAL = "select * from journal where tenant_id = $1 order by seq"
_IDS = "select distinct run_id from journal where tenant_id = $1 and run_id is not null union select run_id from runs where tenant_id = $1"
_RUNS = "select * from runs where run_id = any($1) or tenant_id = $2"
_STEPS = "select * from steps where run_id = any($1) for update"  # waits for claims under way; claims pass over what is locked here
_HEADS = "select * from pipeline_heads where tenant_id = $1"
_NOW = "select clock_timestamp() + ahead as now, (extract(epoch from clock_timestamp()) * 1000)::bigint as fence from clock"
_DROP_STEPS = "delete from steps where run_id = any($1)"
_DROP_RUNS = "delete from runs where run_id = any($1) or tenant_id = $2"
_FREE_LIMITS = """
delete from limit_slots l where run_id = any($1) and not exists (
    select 1 from steps s where s.run_id = l.run_id and s.stage = l.stage and s.state = 'waiting')
"""
_UNHEAD = "update pipeline_heads set active_run = null, pending_run = null where tenant_id = $1"
_HEAD = """
insert into pipeline_heads (tenant_id, pipeline, active_run, pending_run) values ($1, $2, $3, $4)
on conflict (tenant_id, pipeline) do update set active_run = excluded.active_run, pending_run = excluded.pending_run
"""
_STRAYS = """
delete from steps s where ($1::text is null or tenant_id = $1) and not exists (select 1 from journal j where j.run_id = s.run_id)
"""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one tenant. The hashes: of the rows before, of the journal, and of the rows read back."""

    tenant_id: str
    done: bool
    runs: int
    steps: int
    reopened: int
    """Steps that were open: ready or waiting again, due now."""
    before: str
    after: str
    differences: list[Difference] = field(default_factory=list)
    """What was wrong before; of a tenant that was left as it is, why."""


async def rebuild(raw: "asyncpg.Connection[Any]", tenant_id: str | None = None) -> AsyncIterator[Rebuilt]:
    """Each tenant in a transaction of its own. A journal that cannot be folded, or whose end is missing, leaves the tenant's rows as they are."""
    for row in await raw.fetch(_TENANTS, tenant_id):
        yield await rebuild_one(raw, row["tenant_id"])
    await raw.execute(_STRAYS, tenant_id)
    await raw.execute(f"select pg_notify('{WAKE_CHANNEL}', '')")


async def rebuild_one(raw: "asyncpg.Connection[Any]", tenant_id: str) -> Rebuilt:
    """One tenant, in a transaction or a part of the caller's."""
    async with raw.transaction():
        seq = await raw.fetchval(_LOCK, tenant_id)
        ids = [row["run_id"] for row in await raw.fetch(_IDS, tenant_id)]
        folded, error = await folded_of(aiter(raw.cursor(_JOURNAL, tenant_id, prefetch=500)))
        steps = await raw.fetch(_STEPS, ids)
        before = await _rows(raw, tenant_id, seq, ids, steps)
        found = compared(Tenant(tenant_id, folded, error, before))
        if error is not None or any(each.about == "journal" for each in found):
            return Rebuilt(tenant_id, False, 0, 0, 0, before.hash(), before.hash(), found)
        await _write(raw, folded, tenant_id, ids, {(row["run_id"], row["stage"]): row["fence"] for row in steps})
        after = await _rows(raw, tenant_id, seq, ids, await raw.fetch(_STEPS, ids))
        if after != Comparable.of_state(folded):
            raise RuntimeError(f"{tenant_id} was written otherwise than its journal says, and nothing was changed; report it")
        opened = sum(step.finished_at is None for step in folded.steps.values())
        return Rebuilt(tenant_id, True, len(folded.runs), len(folded.steps), opened, before.hash(), after.hash(), found)


async def _rows(raw: "asyncpg.Connection[Any]", tenant_id: str, seq: int, ids: list[Any], steps: list[Any]) -> Comparable:
    return Comparable.of_rows(seq, await raw.fetch(_RUNS, ids, tenant_id), steps, await raw.fetch(_HEADS, tenant_id))


async def _write(raw: "asyncpg.Connection[Any]", state: State, tenant_id: str, ids: list[Any], fences: dict[Any, int]) -> None:
    await raw.execute(_DROP_STEPS, ids)
    await raw.execute(_DROP_RUNS, ids, tenant_id)
    now = (await raw.fetch(_NOW))[0]
    await insert(raw, "runs", [asdict(run) for run in state.runs.values()])
    await insert(raw, "steps", [_step(step, now["now"], max(now["fence"], fences.get(step.key, 0) + 1)) for step in state.steps.values()])
    await raw.execute(_FREE_LIMITS, ids)
    await raw.execute(_UNHEAD, tenant_id)
    await raw.executemany(_HEAD, [(tenant_id, name, head.active, head.pending) for name, head in state.heads.items()])


def _step(step: Step, now: datetime, fence: int) -> Data:
    """The row: nobody's, due now if it is open. The fence grows with the clock, so that it passes even one whose row is gone."""
    return asdict(step) | {"worker": None, "takeovers": 0, "fence": fence, "waiting_for": None, "due_at": step.finished_at or now}


async def insert(raw: "asyncpg.Connection[Any]", table: str, rows: list[Data]) -> None:
    names = ", ".join(rows[0]) if rows else ""  # other columns get their defaults
    for first in range(0, len(rows), 500):
        plain = orjson.loads(orjson.dumps(rows[first : first + 500], default=str))  # the driver's UUIDs are none that JSON knows
        await raw.execute(f"insert into {table} ({names}) select {names} from jsonb_populate_recordset(null::{table}, $1)", plain)
