"""The status pages: what the API says, for people."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse

from schemas.states import RunState
from schemas.tenant import is_tenant_id
from streams.carried import carried
from streams.quality import QualityReader
from streams.web.parts import TenantPath, Use
from streams.web.shape import bars, knobs, nodes
from streams.web.templating import page
from streams.why import tenant_reasons

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

SHOWN = 500
"""Rows of a list on one page; the API gives more."""


@router.get("/")
async def overview(use: Use) -> HTMLResponse:
    tenants, recent = await use.reader.tenants(SHOWN), await use.reader.runs(limit=SHOWN)
    return page(
        "overview.html",
        tenants=tenants,
        runs={run.run_id: run for run in recent},
        counts=await use.reader.run_counts(),
        backlog=await use.reader.backlog(),
        workers=sum(each.alive for each in await use.reader.workers()),
        health=await use.health.readiness(),
        now=use.ledger.clock.now(),
        shown=SHOWN,
    )


@router.get("/runs")
async def runs(use: Use, state: str = "", tenant: str = "", limit: Annotated[int, Query(ge=1, le=SHOWN)] = 100) -> HTMLResponse:
    """Filters that cannot match give an empty list, not an error: they come from a form."""
    tenant = tenant.strip().lower()
    fits = (not state or state in set(RunState)) and (not tenant or is_tenant_id(tenant))
    found = await use.reader.runs(tenant=tenant or None, state=state or None, limit=limit) if fits else []
    return page("runs.html", runs=found, states=list(RunState), state=state, tenant=tenant, limit=limit, now=use.ledger.clock.now())


@router.get("/runs/{run_id}")
async def run(use: Use, run_id: UUID) -> HTMLResponse:
    now = use.ledger.clock.now()
    detail = await use.reader.run(run_id)
    return page(
        "run.html",
        run=detail.run,
        detail=detail,
        over=RunState(detail.run.state).terminal,
        nodes=nodes(use.pipelines, detail.run.pipeline, detail.steps),
        bars=bars(detail.steps, now),
        events=await use.reader.events(run_id),
        now=now,
    )


@router.get("/tenants/{tenant_id}")
async def tenant(use: Use, tenant_id: TenantPath) -> HTMLResponse:
    return page(
        "tenant.html",
        tenant=await use.reader.tenant(tenant_id),
        runs=await use.reader.runs(tenant=tenant_id, limit=20),
        versions=await use.reader.versions(tenant_id),
        dead=await use.reader.dead_letters(tenant=tenant_id, limit=20),
        pipelines=[(each, knobs(each.entry)) for each in use.pipelines.all],
        reasons=tenant_reasons(why := await use.reader.why_tenant(tenant_id), use.pipelines.limits),
        decisions=why["decisions"],
        incidents=await QualityReader(use.ledger.calls).incidents(tenant=tenant_id, state="open", limit=20),
        now=use.ledger.clock.now(),
    )


@router.get("/pipeline")
async def pipeline(use: Use) -> HTMLResponse:
    found = {each["name"]: each for each in await carried(use.reader, use.pipelines)}
    return page("pipeline.html", pipelines=use.pipelines.all, found=found, retry=use.pipelines.retry, now=use.ledger.clock.now())


@router.get("/dead")
async def dead(use: Use, state: str = "open") -> HTMLResponse:
    chosen = state if state in ("open", "redriven", "dropped") else None
    return page("dead.html", letters=await use.reader.dead_letters(state=chosen, limit=SHOWN), state=state, now=use.ledger.clock.now())


@router.get("/health")
async def health(use: Use) -> HTMLResponse:
    """Comes up whatever is away; what only the ledger knows is left out then."""
    readiness = await use.health.readiness()
    there = next(each.ok for each in readiness.findings if each.name == "ledger")
    return page(
        "health.html",
        health=readiness,
        workers=await use.reader.workers() if there else None,
        gaps=await use.reader.gaps() if there else None,
        backlog=await use.reader.backlog() if there else None,
        now=use.ledger.clock.now(),
    )
