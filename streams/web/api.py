"""The REST API that reads: runs, tenants, versions, dead letters, pipelines; the shapes are the reader's rows."""

from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from schemas.states import RunState
from schemas.tenant import TenantId
from streams.carried import carried
from streams.ledger.rows import DeadLetter, ModelVersion, Run, Tenant
from streams.web.parts import TenantPath, Use
from streams.why import reason, tenant_reasons

router = APIRouter(prefix="/api/v1", tags=["api"])
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/runs")
async def runs(use: Use, tenant: TenantId | None = None, state: RunState | None = None, pipeline: str | None = None, limit: Limit = 50) -> list[Run]:
    """The newest runs, those of one tenant, state or pipeline if asked so."""
    return await use.reader.runs(tenant=tenant, state=state, pipeline=pipeline, limit=limit)


@router.get("/runs/{run_id}")
async def run(use: Use, run_id: UUID) -> dict[str, Any]:
    """A run with its stages, the requests that caused it, the commands neighbours accepted, and its journal."""
    detail = await use.reader.run(run_id)
    events = await use.reader.events(run_id)
    facts = asdict(detail)
    return {**facts.pop("run"), **facts, "events": [asdict(each) for each in events]}


@router.get("/runs/{run_id}/why")
async def why(use: Use, run_id: UUID) -> dict[str, Any]:
    """What the run waits for, in one sentence with numbers."""
    facts = await use.reader.why(run_id)
    return {"run_id": run_id, "tenant_id": facts["tenant_id"], **reason(facts, use.pipelines.limits)._asdict()}


@router.get("/tenants")
async def tenants(use: Use, limit: Limit = 1000) -> list[Tenant]:
    """All tenants with their newest run and the version that serves."""
    return await use.reader.tenants(limit)


@router.get("/tenants/{tenant_id}")
async def tenant(use: Use, tenant_id: TenantPath) -> Tenant:
    """One tenant."""
    return await use.reader.tenant(tenant_id)


@router.get("/tenants/{tenant_id}/why")
async def why_tenant(use: Use, tenant_id: TenantPath) -> dict[str, Any]:
    """When the tenant's pipelines run, and why they did not: a sentence each, and the facts."""
    facts = await use.reader.why_tenant(tenant_id)
    return facts | {"open": [each["run_id"] for each in facts["open"]], "sentences": tenant_reasons(facts, use.pipelines.limits)}


@router.get("/tenants/{tenant_id}/state")
async def state(use: Use, tenant_id: TenantPath) -> dict[str, Any]:
    """The tenant's latest run of each pipeline, from the Faust table; from the ledger (`source`) while the table is not whole in this process."""
    states = use.states(tenant_id)
    if states is not None:
        return {"tenant_id": tenant_id, "source": "table", "pipelines": states}
    latest: dict[str, Run] = {}
    for each in await use.reader.runs(tenant=tenant_id, limit=20):
        if each.pipeline not in latest or latest[each.pipeline].version < each.version:
            latest[each.pipeline] = each
    return {"tenant_id": tenant_id, "source": "ledger", "pipelines": {name: asdict(each) for name, each in latest.items()}}


@router.get("/versions/{tenant_id}")
async def versions(use: Use, tenant_id: TenantPath) -> list[ModelVersion]:
    """Every model version of a tenant, newest first."""
    return await use.reader.versions(tenant_id)


@router.get("/dead")
async def dead(use: Use, tenant: TenantId | None = None, code: str | None = None, state: str | None = "open", limit: Limit = 100) -> list[DeadLetter]:
    """Records that could not be used, newest first."""
    return await use.reader.dead_letters(state=state, tenant=tenant, code=code, limit=limit)


@router.get("/pipelines")
async def pipelines(use: Use) -> list[dict[str, Any]]:
    """The pipelines this platform runs: their wiring, how many of their runs are in each state, whether paused, when next, how the last run ended."""
    return await carried(use.reader, use.pipelines)
