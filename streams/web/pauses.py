"""Pauses over HTTP: who begins nothing, and the two moves."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from schemas.tenant import TenantId
from streams import pauses as door
from streams.ledger.rows import Pause
from streams.web.commands import answer, in_time
from streams.web.parts import Use

router = APIRouter(prefix="/api/v1/pauses", tags=["api"])


class PauseRequest(BaseModel):
    """What is meant: a pipeline, a tenant, or a pipeline of a tenant."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str | None = None
    tenant_id: TenantId | None = None
    reason: Annotated[str, Field(max_length=2000)] = ""


@router.get("")
async def pauses(use: Use, past: bool = False) -> list[Pause]:
    """Who begins nothing now; with `past` also who did not."""
    return await use.reader.pauses(past=past)


@router.post("", status_code=202)
async def pause(use: Use, body: Annotated[PauseRequest, Body()]) -> JSONResponse:
    """Let them begin nothing; requests are accepted and wait. `result`: paused, or there."""
    said = door.pause(use.ledger, use.pipelines, pipeline=body.pipeline, tenant_id=body.tenant_id, reason=body.reason, by="api")
    return answer(await in_time(said))


@router.post("/end", status_code=202)
async def end(use: Use, body: Annotated[PauseRequest, Body()]) -> JSONResponse:
    """End that pause. `result`: resumed, or there."""
    said = door.resume(use.ledger, use.pipelines, pipeline=body.pipeline, tenant_id=body.tenant_id, reason=body.reason, by="api")
    return answer(await in_time(said))
