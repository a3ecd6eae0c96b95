"""The tenants' data on pages and in the API: verdicts with numbers, limits and trends, and what somebody was told."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.responses import HTMLResponse, JSONResponse

from schemas.tenant import TenantId
from streams.quality import QualityReader
from streams.quality_limits import LimitChanges, limits_of, set_limits
from streams.web.commands import answer, in_time
from streams.web.errors import Problem
from streams.web.parts import TenantPath, Use
from streams.web.templating import page

router = APIRouter()
Limit = Annotated[int, Query(ge=1, le=1000)]
TICKS = 60
"""Points of a trend line: two weeks of ticks each six hours."""
WIDTH, HEIGHT = 160, 32


@dataclass(frozen=True, slots=True)
class Trend:
    """One check's numbers over time as an inline SVG: the line's points, and where the limit lies."""

    points: str
    limit: float | None
    last: tuple[float, float] | None


@router.get("/api/v1/quality", tags=["quality"])
async def tenants(use: Use, limit: Limit = 1000) -> list[dict[str, Any]]:
    """Every tenant's newest verdict, the most troubled first; suspended ones last, deleted ones not at all."""
    return await _reader(use).tenants(limit)


@router.get("/api/v1/quality/{tenant_id}", tags=["quality"])
async def tenant(use: Use, tenant_id: TenantPath) -> dict[str, Any]:
    """A tenant's newest verdict with every check's number."""
    found = await _reader(use).tenant(tenant_id)
    if found is None:
        raise Problem(404, "no_verdict", f"the data of {tenant_id} has never been measured; `tidemill quality run {tenant_id}`")
    return found


@router.get("/api/v1/quality/{tenant_id}/history", tags=["quality"])
async def history(use: Use, tenant_id: TenantPath, limit: Limit = TICKS) -> list[dict[str, Any]]:
    """A tenant's verdicts, newest first."""
    return await _reader(use).history(tenant_id, limit)


@router.get("/api/v1/quality/{tenant_id}/checks", tags=["quality"])
async def checks(use: Use, tenant_id: TenantPath) -> list[dict[str, Any]]:
    """Every check with the limits that hold for the tenant: `medium` is told above, `high` blocks training above, `origin` says whence they come."""
    _, own = await use.reader.tenant_facts(tenant_id)
    return limits_of(use.pipelines.settings, own)


@router.patch("/api/v1/quality/{tenant_id}/checks", tags=["quality"], status_code=202)
async def change(use: Use, tenant_id: TenantPath, changes: Annotated[LimitChanges, Body()]) -> JSONResponse:
    """Give the tenant limits of its own, switch checks off, or take that back; the next verdict goes by it. `result`: changed, or there."""
    return answer(await in_time(set_limits(use.ledger, use.reader, use.pipelines.settings, tenant_id, changes, by="api")))


@router.get("/api/v1/incidents", tags=["quality"])
async def incidents(use: Use, tenant: TenantId | None = None, state: str | None = None, limit: Limit = 200) -> list[dict[str, Any]]:
    """Incidents, newest first."""
    return await _reader(use).incidents(tenant=tenant, state=state, limit=limit)


@router.get("/quality", include_in_schema=False)
async def page_of_all(use: Use) -> HTMLResponse:
    reader = _reader(use)
    return page("quality.html", tenants=await reader.tenants(), incidents=await reader.incidents(state="open", limit=100), now=use.ledger.clock.now())


@router.get("/quality/{tenant_id}", include_in_schema=False)
async def page_of_one(use: Use, tenant_id: TenantPath) -> HTMLResponse:
    reader = _reader(use)
    await use.reader.tenant(tenant_id)
    found, ticks = await reader.tenant(tenant_id), await reader.history(tenant_id, TICKS)
    _, own = await use.reader.tenant_facts(tenant_id)
    gate, until, now = own.get("quality", {}).get("gate"), _until(found), use.ledger.clock.now()
    checks = found["checks"] if found else []
    return page(
        "quality_tenant.html",
        tenant_id=tenant_id,
        found=found,
        stands=_stands(found, until, now, ungated="off" in (gate, use.pipelines.settings.quality.gate)),
        gate=gate,
        until=until,
        checks=[(check, trend(check, ticks)) for check in checks],
        timeline=await reader.timeline(tenant_id),
        ticks=ticks,
        now=now,
    )


def _until(found: dict[str, Any] | None) -> datetime | None:
    """Until when the tenant was allowed to train in spite of verdicts."""
    return datetime.fromisoformat(found["allowance"]["until"]) if found and found["allowance"] else None


def _stands(found: dict[str, Any] | None, until: datetime | None, now: datetime, *, ungated: bool) -> str:
    """What the verdict means for training: free, blocked, allowed, or ungated."""
    if found is None or not found["watched"] or found["verdict"] not in ("fail", "error"):
        return "free"
    if ungated:
        return "ungated"
    return "allowed" if until is not None and until > now else "blocked"


def trend(check: dict[str, Any], ticks: list[dict[str, Any]]) -> Trend:
    """The check's value at each tick, oldest to the left, on a scale that has room for its limit."""
    values = [_value(tick, check["check"]) for tick in reversed(ticks)]
    known = [value for value in values if value is not None]
    limit = check.get("limit")
    top = max([*known, limit or 0, 1e-9]) * 1.1
    step = WIDTH / max(len(values) - 1, 1)
    places = [(round(n * step, 1), _height(value, top)) for n, value in enumerate(values) if value is not None]
    return Trend(" ".join(f"{x},{y}" for x, y in places), None if limit is None else _height(limit, top), places[-1] if places else None)


def _value(tick: dict[str, Any], name: str) -> float | None:
    for check in tick["checks"]:
        if check["check"] == name and check.get("value") is not None:
            return abs(float(check["value"]))
    return None


def _height(value: float, top: float) -> float:
    return round(HEIGHT - 2 - (HEIGHT - 4) * min(value, top) / top, 1)


def _reader(use: Use) -> QualityReader:
    return QualityReader(use.ledger.calls)
