"""Backfills over HTTP, through the same door as the command line."""

from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from schemas.tenant import TenantId
from streams.backfill import change_backfill, start_backfill
from streams.everyone import chosen_by
from streams.ledger.reader import NotFound
from streams.ledger.rows import Backfill
from streams.web.commands import answer, in_time
from streams.web.parts import Use

router = APIRouter(prefix="/api/v1/backfills", tags=["api"])
MOVES = {"pause": "paused", "resume": "running", "cancel": "cancelled"}


class BackfillRequest(BaseModel):
    """Which due times are to be made up for; days in the schedule's zone, both included."""

    model_config = ConfigDict(extra="forbid")

    schedule: Annotated[str, Field(max_length=63)]
    first_day: date
    last_day: date
    tenant: TenantId | None = None
    where: Annotated[dict[str, str], Field(max_length=20, default_factory=dict)]
    at_once: Annotated[int, Field(ge=1, le=1000)] = 10
    dry_run: bool = False


@router.get("")
async def backfills(use: Use) -> list[dict[str, Any]]:
    """All backfills with how far they are, newest first."""
    return [shown(each) for each in await use.reader.backfills()]


@router.get("/{backfill_id}")
async def backfill(use: Use, backfill_id: UUID) -> dict[str, Any]:
    """One backfill, and how far it is."""
    found = await use.reader.backfills(backfill_id)
    if not found:
        raise NotFound("unknown_backfill", f"there is no backfill {backfill_id}")
    return shown(found[0])


@router.post("", status_code=202)
async def start(use: Use, body: Annotated[BackfillRequest, Body()]) -> JSONResponse:
    """Ask for a run for each due time that never fired. `result`: started, there (nothing is missing), planned (dry run)."""
    chosen = {"tenant": body.tenant} if body.tenant else chosen_by(f"{name}={value}" for name, value in body.where.items())
    if "result" in chosen:
        return answer(chosen)
    asked = start_backfill(
        use.ledger,
        body.schedule,
        first=body.first_day,
        last=body.last_day,
        chosen=chosen,
        at_once=body.at_once,
        by="api",
        dry_run=body.dry_run,
    )
    return answer(await in_time(asked))


@router.post("/{backfill_id}/{move}", status_code=202)
async def change(use: Use, backfill_id: UUID, move: Literal["pause", "resume", "cancel"]) -> JSONResponse:
    """Pause, resume or cancel it; runs under way go on."""
    return answer(await in_time(change_backfill(use.ledger, str(backfill_id), MOVES[move], by="api")))


def shown(found: Backfill) -> dict[str, Any]:
    return asdict(found) | {"percent": found.percent}
