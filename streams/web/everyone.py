"""The API's requests for many tenants: said plainly (`all`, or `where`), tried dry, followed by their expansion."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Header
from pydantic import Field
from starlette.responses import JSONResponse

from streams.everyone import chosen_by, dry_run, progress, request_all
from streams.ledger.reader import NotFound
from streams.web.commands import Key, RunRequest, answer, in_time, refuse_above_the_limit
from streams.web.errors import Problem
from streams.web.parts import Use

router = APIRouter(prefix="/api/v1", tags=["api"])


class ManyRequest(RunRequest):
    """A request for every active tenant, or for those with a label, owner or status."""

    every: Annotated[bool, Field(alias="all")] = False
    where: Annotated[dict[str, str], Field(max_length=20, default_factory=dict)]
    dry_run: bool = False


@router.post("/runs", status_code=202)
async def ask_many(use: Use, body: Annotated[ManyRequest, Body()], idempotency_key: Annotated[Key | None, Header()] = None) -> JSONResponse:
    """Ask for a run of each tenant meant. `result`: expanding, seen (this key asked before), or dry_run with the `tenants`."""
    if not body.every and not body.where:
        raise Problem(422, "no_tenant", 'post to /api/v1/tenants/{tenant}/runs, or say {"all": true} or {"where": {"label": "value"}}')
    chosen = chosen_by(f"{name}={value}" for name, value in body.where.items())
    if "result" in chosen:
        return answer(chosen)
    if body.dry_run:
        tried = dry_run(use.ledger, use.pipelines, pipeline=body.pipeline, chosen=chosen, config=body.config, reason=body.reason)
        said = await in_time(tried)
        return answer(said) if said["result"] == "refused" else JSONResponse(said)
    await refuse_above_the_limit(use)
    asked = request_all(
        use.ledger,
        use.pipelines,
        pipeline=body.pipeline,
        chosen=chosen,
        request_key=body.request_key or idempotency_key,
        config=body.config,
        reason=body.reason,
        source="api",
    )
    return answer(await in_time(asked))


@router.get("/expansions/{key}")
async def expansion(use: Use, key: UUID) -> dict[str, Any]:
    """How many of the tenants were asked for so far; `done_at` once it was all of them."""
    found = await progress(use.ledger, str(key))
    if found is None:
        raise NotFound("unknown_expansion", f"there is no request for many tenants {key}")
    return found
