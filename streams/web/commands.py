"""The REST API that changes something: ask for a run, cancel one, retry one; through the same door as CLI and timers."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Header
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from streams.ledger.connection import is_outage
from streams.ledger.groupcommit import Stopped
from streams.ledger.ledger import Answer
from streams.requests import cancel_run, request_run, retry_run
from streams.web.errors import Problem
from streams.web.guard import problem
from streams.web.parts import Parts, TenantPath, Use

router = APIRouter(prefix="/api/v1", tags=["api"])

PATIENCE = 10.0
"""Seconds until the caller hears that the ledger has not answered; what was asked may still be done."""
_NOT_FOUND = frozenset({"unknown_tenant", "unknown_run", "unknown_schedule", "unknown_backfill"})
_CONFLICT = frozenset(
    {
        *("run_over", "run_not_over", "run_superseded", "run_outdated", "tenant_busy", "stage_not_reached"),
        *("tenant_suspended", "tenant_deleted", "schedule_bound", "backfill_over"),
    }
)

Key = Annotated[str, Field(min_length=1, max_length=200)]


class RunRequest(BaseModel):
    """What may be said about the run one asks for; nothing must be."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = "training"
    request_key: Key | None = None
    """Asking again under the same key asks for the same run; the header Idempotency-Key says the same."""
    config: Annotated[dict[str, Any] | None, Field(validation_alias=AliasChoices("model_config", "training_config", "config"))] = None
    reason: Annotated[str | None, Field(max_length=2000)] = None


class RetryRequest(BaseModel):
    """From where a run goes on; the stage that failed unless one is named."""

    model_config = ConfigDict(extra="forbid")

    stage: Annotated[str | None, Field(max_length=100)] = None


@router.post("/tenants/{tenant_id}/runs", status_code=202)
async def ask(
    use: Use, tenant_id: TenantPath, body: Annotated[RunRequest, Body()], idempotency_key: Annotated[Key | None, Header()] = None
) -> JSONResponse:
    """Ask for a run. `result`: run, pending or merged (the tenant has an active run), seen (this key asked before)."""
    if body.request_key and idempotency_key and body.request_key != idempotency_key:
        raise Problem(422, "two_keys", "the header Idempotency-Key and the field request_key differ; give one of them")
    await refuse_above_the_limit(use)
    asked = request_run(
        use.ledger,
        use.pipelines,
        tenant_id=tenant_id,
        pipeline=body.pipeline,
        request_key=body.request_key or idempotency_key,
        config=body.config,
        reason=body.reason,
        source="api",
    )
    return answer(await in_time(asked))


@router.post("/runs/{run_id}/cancel", status_code=202)
async def cancel(use: Use, run_id: UUID) -> JSONResponse:
    """Ask a run to end. `result`: cancelled, or cancelling while the step in flight has the last word."""
    return answer(await in_time(cancel_run(use.ledger, use.pipelines, run_id, by="api")))


@router.post("/runs/{run_id}/retry", status_code=202)
async def retry(use: Use, run_id: UUID, body: Annotated[RetryRequest | None, Body()] = None) -> JSONResponse:
    """Open a finished run again from a stage, with the next round; effects of earlier rounds are kept."""
    stage = body.stage if body else None
    return answer(await in_time(retry_run(use.ledger, use.pipelines, run_id, stage=stage, by="api")))


def answer(said: Answer) -> JSONResponse:
    """What the ledger said, as HTTP says it."""
    if said["result"] != "refused":
        return JSONResponse(said, status_code=202)
    status = 404 if said["code"] in _NOT_FOUND else 409 if said["code"] in _CONFLICT else 503 if said["code"] == "reconciling" else 422
    fields = [{"field": name, "message": message} for name, message in said.get("fields", {}).items()]
    return problem(status, said["code"], said["sentence"], **({"fields": fields} if fields else {}))


async def refuse_above_the_limit(use: Parts) -> None:
    """503 while too much waits for Kafka."""
    if held := await use.reader.hold(use.pipelines.settings.runtime.outbox_max):
        raise Problem(503, held.code, held.sentence)


async def in_time(asked: Awaitable[Answer]) -> Answer:
    """The ledger's answer, or 503: a caller does not wait for an outage to end, and one in the middle may have come after the deed."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await asked
    except Exception as error:
        if isinstance(error, Stopped) or is_outage(error):
            raise Problem(503, "unsure", "the ledger did not answer in time: it may have been done; look, or ask again under the same key") from None
        raise
