"""The tenants' door: who may train, and under which settings. Each change is one transaction with its entry in the tenant's journal."""

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from schemas.tenant import is_tenant_id
from streams import names
from streams.incidents import close_data_incidents
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.requests import refused, wake
from streams.tenant_settings import changed

_ADD = """
insert into tenants (tenant_id, name, created_at, updated_at, active_since) values ($1, $2, $3, $3, $3) on conflict do nothing returning status
"""
_HEAD = "insert into tenant_heads (tenant_id) values ($1) on conflict do nothing"
_STATUS = "select status from tenants where tenant_id = $1"
_CHANGE = """
update tenants set status = $2, updated_at = $3, active_since = case when $2 = 'active' then $3 else active_since end where tenant_id = $1
"""
_NOTE = "select note($1, null, $2, $3, $4)"
_FACTS = "select name, owner, labels, settings, status from tenants where tenant_id = $1"
_SET = "update tenants set name = $2, owner = $3, labels = $4, settings = $5, updated_at = $6 where tenant_id = $1"
# the follow-up first: else the end of the active run would begin it
_OPEN = """
select r.run_id, r.pipeline, r.version from pipeline_heads h join runs r on r.run_id in (h.active_run, h.pending_run)
where h.tenant_id = $1 order by r.run_id is not distinct from h.active_run, r.run_id
"""


async def add_tenant(ledger: Ledger, tenant_id: str, *, name: str | None, by: str) -> Answer:
    """Make a tenant known. `result`: added, or there (nothing changed)."""
    if not is_tenant_id(tenant_id):
        return refused("bad_tenant")
    async with ledger.calls.transaction() as raw:
        return await added(raw, tenant_id, name, by, ledger.clock.now())


async def added(raw: "asyncpg.Connection[Any]", tenant_id: str, name: str | None, by: str, now: datetime) -> Answer:
    """As `add_tenant`, within the caller's transaction."""
    if await raw.fetchval(_ADD, tenant_id, name, now) is None:
        if await raw.fetchval(_STATUS, tenant_id) == "deleted":
            return refused("tenant_deleted", tenant=tenant_id)
        return {"result": "there", "tenant_id": tenant_id}
    await raw.execute(_HEAD, tenant_id)
    await raw.execute(_NOTE, tenant_id, "tenant_added", {"by": by}, now)
    return {"result": "added", "tenant_id": tenant_id}


async def suspend_tenant(ledger: Ledger, pipelines: Pipelines, tenant_id: str, *, by: str) -> Answer:
    """Refuse the tenant's requests from now on and cancel its runs. `result`: suspended, or there."""
    return await _change(ledger, pipelines, tenant_id, "suspended", by)


async def resume_tenant(ledger: Ledger, pipelines: Pipelines, tenant_id: str, *, by: str) -> Answer:
    """Accept the tenant's requests again. `result`: active, or there."""
    return await _change(ledger, pipelines, tenant_id, "active", by)


async def delete_tenant(ledger: Ledger, pipelines: Pipelines, tenant_id: str, *, by: str) -> Answer:
    """End a tenant for good: its runs are cancelled (engines are asked), its row stays so that nothing revives it. `result`: deleted, or there."""
    return await _change(ledger, pipelines, tenant_id, "deleted", by)


async def change_tenant(
    ledger: Ledger, tenant_id: str, *, name: str | None, owner: str | None, labels: dict[str, str | None], settings: dict[str, Any], by: str
) -> Answer:
    """Change what is given: a label or setting of None goes away. `result`: changed, or there."""
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        if not await raw.fetchval("select lock_tenant($1)", tenant_id):
            return refused("unknown_tenant", tenant=tenant_id)
        row = await raw.fetchrow(_FACTS, tenant_id)
        assert row is not None
        if row["status"] == "deleted":
            return refused("tenant_deleted", tenant=tenant_id)
        try:
            own = changed(row["settings"], settings)
        except ValueError as error:
            field, _, why = str(error).partition(": ")
            return refused("bad_field", fields={field: why})
        marks = {key: value for key, value in (row["labels"] | labels).items() if value is not None}
        after = (name or row["name"], owner or row["owner"], marks, own)
        if after == (row["name"], row["owner"], row["labels"], row["settings"]):
            return {"result": "there", "tenant_id": tenant_id}
        await raw.execute(_SET, tenant_id, *after, now)
        said = {"by": by, "name": after[0], "owner": after[1], "labels": marks, "settings": own}
        await raw.execute(_NOTE, tenant_id, "tenant_changed", said, now)
    return {"result": "changed", "tenant_id": tenant_id}


async def _change(ledger: Ledger, pipelines: Pipelines, tenant_id: str, status: str, by: str) -> Answer:
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        if not await raw.fetchval("select lock_tenant($1)", tenant_id):
            return refused("unknown_tenant", tenant=tenant_id)
        answer = await set_status(raw, pipelines, tenant_id, status, by, now)
    await wake(ledger)
    return answer


async def set_status(raw: "asyncpg.Connection[Any]", pipelines: Pipelines, tenant_id: str, status: str, by: str, now: datetime) -> Answer:
    """Change a tenant's status under its lock; whoever is not active any more has its runs cancelled in the same transaction."""
    before = await raw.fetchval(_STATUS, tenant_id)
    if before == status:
        return {"result": "there", "tenant_id": tenant_id}
    if before == "deleted":
        return refused("tenant_deleted", tenant=tenant_id)
    await raw.execute(_CHANGE, tenant_id, status, now)
    await raw.execute(_NOTE, tenant_id, f"tenant_{status}", {"by": by}, now)
    if status == "active":
        return {"result": status, "tenant_id": tenant_id, "cancelled": []}
    cancelled = await _cancel_all(raw, pipelines, tenant_id, f"{by} ({status} the tenant)", now)
    await close_data_incidents(raw, tenant_id, f"{by} {status} the tenant", now)
    return {"result": status, "tenant_id": tenant_id, "cancelled": [str(run) for run in cancelled]}


async def _cancel_all(raw: "asyncpg.Connection[Any]", pipelines: Pipelines, tenant_id: str, by: str, now: datetime) -> list[UUID]:
    rows = await raw.fetch(_OPEN, tenant_id)
    for row in rows:
        pipeline = pipelines.by_name.get(row["pipeline"])
        finish = names.finish_event(row["run_id"], "cancel", row["version"])
        first, unsettled = (pipelines.first(pipeline), pipelines.unsettled(pipeline)) if pipeline else ({}, [])
        await raw.fetchval("select cancel_run($1, $2, $3, $4, $5, $6)", row["run_id"], finish, first, unsettled, by, now)
    return [row["run_id"] for row in rows]
