"""The warehouse's table `tenants` is a source; what changed there is taken over, by `tidemill tenants sync` or now and then by itself.

The ledger stays the truth: somebody suspended here stays so until the warehouse changes its mind, and nobody is deleted.
"""

from typing import Any

import asyncpg
import structlog

from schemas.tenant import is_tenant_id
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.requests import refused, wake
from streams.tenants import added, set_status

log = structlog.get_logger(__name__)

CHANGES = ("added", "renamed", "suspended", "resumed")
_SOURCE = "select tenant_id, name, status from tenants order by tenant_id"
_HERE = "select tenant_id, name, status, source_status from tenants where tenant_id = any($1)"
_TAKE = "update tenants set name = coalesce($2, name), source_status = $3, updated_at = $4 where tenant_id = $1"
_GONE = "select count(*) from tenants where source_status is not null and status <> 'deleted' and tenant_id <> all($1)"


async def sync_tenants(ledger: Ledger, pipelines: Pipelines, *, by: str) -> Answer:
    """Take over what changed, one tenant a transaction. Counts: added, renamed, suspended, resumed, unchanged, not_tenants, missing."""
    try:
        source = await _read(pipelines.settings.warehouse.dsn.get_secret_value())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return refused("warehouse_unreadable", why=type(error).__name__)
    good = [row for row in source if is_tenant_id(row["tenant_id"])]
    ids = [row["tenant_id"] for row in good]
    here = {row["tenant_id"]: row for row in await ledger.calls.fetch(_HERE, ids)}
    counts = dict.fromkeys((*CHANGES, "unchanged"), 0) | {"not_tenants": len(source) - len(good)}
    for row in good:
        known = here.get(row["tenant_id"])
        status = "active" if row["status"] in (None, "active") else "suspended"
        if known is not None and (known["status"] == "deleted" or (known["source_status"], known["name"]) == (status, row["name"] or known["name"])):
            counts["unchanged"] += 1
            continue
        for what in await _take(ledger, pipelines, row, known, status, by):
            counts[what] += 1
    await wake(ledger)
    return {"result": "synced", **counts, "missing": await ledger.calls.value(_GONE, ids)}


async def follow(ledger: Ledger, pipelines: Pipelines) -> None:
    """The look of a worker; what it changed, or why it could not, is in the log."""
    answer = await sync_tenants(ledger, pipelines, by="tidemill")
    if answer["result"] == "refused":
        log.warning("the warehouse's tenants were not taken over; the next look tries again", code=answer["code"], reason=answer["sentence"])
    elif changed := {what: count for what, count in answer.items() if what in CHANGES and count}:
        log.info("changes of the warehouse's tenants were taken over", **changed)


async def _read(dsn: str) -> list[Any]:
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=60)
    try:
        return list(await connection.fetch(_SOURCE))
    finally:
        await connection.close()


async def _take(ledger: Ledger, pipelines: Pipelines, row: Any, known: Any, status: str, by: str) -> list[str]:
    """What it came to for this tenant."""
    now, tenant, said = ledger.clock.now(), row["tenant_id"], []
    async with ledger.calls.transaction() as raw:
        if known is None:
            await added(raw, tenant, row["name"], f"{by}, sync", now)
            said.append("added")
        elif row["name"] and row["name"] != known["name"]:
            said.append("renamed")
        await raw.fetchval("select lock_tenant($1)", tenant)
        before = known["source_status"] if known is not None else "active"
        if status != before and (before is not None or status == "suspended"):
            answer = await set_status(raw, pipelines, tenant, status, f"{by}, sync", now)
            said += [{"active": "resumed", "suspended": "suspended"}[status]] if answer["result"] == status else []
        await raw.execute(_TAKE, tenant, row["name"], status, now)
    return said or ["unchanged"]
