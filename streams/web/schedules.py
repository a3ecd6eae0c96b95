"""Schedules over HTTP: the API and the page, through the same door as the command line."""

from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from starlette.responses import HTMLResponse, JSONResponse

from schemas.tenant import TenantId, is_tenant_id
from streams import schedules as door
from streams.ledger.rows import Schedule
from streams.schedule import BadSchedule, Fire, preview
from streams.web.commands import answer, in_time
from streams.web.errors import Problem
from streams.web.parts import Use
from streams.web.templating import page

router = APIRouter(tags=["api"])
Name = Annotated[str, Path(max_length=63)]
Count = Annotated[int, Query(ge=1, le=1000)]
SHOWN = 100
"""Schedules on one page, each with its times and slots; the API gives more."""
_API = "/api/v1/schedules"


@router.get(_API)
async def schedules(use: Use, tenant: TenantId | None = None, limit: Count = 1000) -> list[Schedule]:
    """All schedules, those for everybody first; or a tenant's own."""
    return await use.reader.schedules(tenant=tenant, limit=limit)


@router.get(f"{_API}/{{name}}")
async def schedule(use: Use, name: Name) -> Schedule:
    """One schedule."""
    return await use.reader.schedule(name)


@router.put(f"{_API}/{{name}}", status_code=202)
async def change(use: Use, name: Name, changes: Annotated[door.Changes, Body()]) -> JSONResponse:
    """Make a schedule (paused), or change what the body says, live. `result`: created, changed, there."""
    return answer(await in_time(door.set_schedule(use.ledger, use.pipelines, name, changes, by="api")))


@router.post(f"{_API}/{{name}}/pause", status_code=202)
async def pause(use: Use, name: Name) -> JSONResponse:
    """Let it fire no more."""
    return answer(await in_time(door.pause_schedule(use.ledger, name, by="api")))


@router.post(f"{_API}/{{name}}/resume", status_code=202)
async def resume(use: Use, name: Name) -> JSONResponse:
    """Let it fire; what it missed meanwhile by its policy."""
    return answer(await in_time(door.resume_schedule(use.ledger, name, by="api")))


@router.delete(f"{_API}/{{name}}", status_code=202)
async def delete(use: Use, name: Name) -> JSONResponse:
    """End it; its history stays."""
    return answer(await in_time(door.delete_schedule(use.ledger, name, by="api")))


@router.get(f"{_API}/{{name}}/preview")
async def fires(use: Use, name: Name, count: Count = 10, cron: str | None = None, zone: str | None = None) -> list[dict[str, Any]]:
    """When it fires next, with what daylight saving does; `cron` and `zone`: as if it had these."""
    found = await use.reader.schedule(name)
    found = replace(found, cron=cron or found.cron, zone=zone or found.zone)
    try:
        return [fire._asdict() for fire in preview(found.rule, use.ledger.clock.now(), count)]
    except BadSchedule as error:
        raise Problem(422, "bad_schedule", f"{error.field}: {error}") from None


@router.get(f"{_API}/{{name}}/history")
async def history(use: Use, name: Name, limit: Count = 50) -> dict[str, Any]:
    """What became of its last due times, and who changed it."""
    found = await use.reader.schedule(name)
    slots, changes = await use.reader.slots(found.schedule_id, limit), await use.reader.schedule_changes(name, limit)
    return {"slots": [asdict(each) for each in slots], "changes": [asdict(each) for each in changes]}


@router.get("/schedules", include_in_schema=False)
async def shown(use: Use, tenant: str = "", limit: Annotated[int, Query(ge=1, le=SHOWN)] = 20) -> HTMLResponse:
    """Schedules with their next fires and their last slots; of many the first, or a tenant's own."""
    now, tenant = use.ledger.clock.now(), tenant.strip().lower()
    fits, wanted = not tenant or is_tenant_id(tenant), tenant or None
    found = await use.reader.schedules(tenant=wanted, limit=limit) if fits else []
    slots = await use.reader.slots_of([each.schedule_id for each in found], 10)
    return page(
        "schedules.html",
        cards=[(each, _fires(each, now), slots[each.schedule_id]) for each in found],
        there=await use.reader.schedule_count(wanted) if len(found) == limit else len(found),
        tenant=tenant,
        pauses=await use.reader.pauses(),
        backfills=await use.reader.backfills(limit=20),
        now=now,
    )


def _fires(found: Schedule, now: Any) -> list[Fire]:
    try:
        return preview(found.rule, now, 5)
    except BadSchedule:
        return []
