"""The tenants' door: who may train. Runs that are under way are not touched; each change is in the tenant's journal."""

from schemas.tenant import is_tenant_id
from streams.ledger.ledger import Answer, Ledger
from streams.requests import refused

_ADD = "insert into tenants (tenant_id, name, created_at, updated_at) values ($1, $2, $3, $3) on conflict do nothing returning status"
_HEAD = "insert into tenant_heads (tenant_id) values ($1) on conflict do nothing"
_CHANGE = "update tenants set status = $2, updated_at = $3 where tenant_id = $1 and status <> $2 returning status"
_NOTE = "select note($1, null, $2, $3, $4)"


async def add_tenant(ledger: Ledger, tenant_id: str, *, name: str | None, by: str) -> Answer:
    """Make a tenant known. `result`: added, or there (nothing changed)."""
    if not is_tenant_id(tenant_id):
        return refused("bad_tenant")
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        if await raw.fetchval(_ADD, tenant_id, name, now) is None:
            return {"result": "there", "tenant_id": tenant_id}
        await raw.execute(_HEAD, tenant_id)
        await raw.execute(_NOTE, tenant_id, "tenant_added", {"by": by}, now)
    return {"result": "added", "tenant_id": tenant_id}


async def suspend_tenant(ledger: Ledger, tenant_id: str, *, by: str) -> Answer:
    """Refuse the tenant's requests from now on. `result`: suspended, or there."""
    return await _change(ledger, tenant_id, "suspended", by)


async def resume_tenant(ledger: Ledger, tenant_id: str, *, by: str) -> Answer:
    """Accept the tenant's requests again. `result`: active, or there."""
    return await _change(ledger, tenant_id, "active", by)


async def _change(ledger: Ledger, tenant_id: str, status: str, by: str) -> Answer:
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        if not await raw.fetchval("select lock_tenant($1)", tenant_id):
            return refused("unknown_tenant", tenant=tenant_id)
        if await raw.fetchval(_CHANGE, tenant_id, status, now) is None:
            return {"result": "there", "tenant_id": tenant_id}
        await raw.execute(_NOTE, tenant_id, f"tenant_{status}", {"by": by}, now)
    return {"result": status, "tenant_id": tenant_id}
