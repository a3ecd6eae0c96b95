"""The door for pauses: a pipeline, a tenant, or both together begin nothing until somebody resumes them. Durable, with who and why.

What is under way finishes its step; requests are accepted and wait; schedules hold their due times.
"""

import asyncio
from typing import Any

from streams.ledger.connection import is_conflict
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.requests import refused, wake

TRIES = 5
"""A pause of a whole pipeline may get in the way of a batch of many tenants; the database then undoes one of the two."""


async def pause(ledger: Ledger, pipelines: Pipelines, *, pipeline: str | None, tenant_id: str | None, reason: str, by: str) -> Answer:
    """Let them begin nothing. `result`: paused, or there."""
    return await _say(ledger, pipelines, "set_pause", pipeline, tenant_id, reason, by)


async def resume(ledger: Ledger, pipelines: Pipelines, *, pipeline: str | None, tenant_id: str | None, reason: str, by: str) -> Answer:
    """End that pause; others that cover the same go on. `result`: resumed, or there."""
    return await _say(ledger, pipelines, "end_pause", pipeline, tenant_id, reason, by)


async def _say(ledger: Ledger, pipelines: Pipelines, move: str, pipeline: str | None, tenant_id: str | None, reason: str, by: str) -> Answer:
    if pipeline is None and tenant_id is None:
        return refused("nothing_named")
    if pipeline is not None and pipeline not in pipelines.by_name:
        return refused("unknown_pipeline", pipeline=pipeline, pipelines=", ".join(pipelines.by_name))
    answer = await _tried(ledger, f"select {move}($1, $2, $3, $4, $5)", pipeline, tenant_id, reason, by)
    if answer["result"] == "refused":
        return refused(answer["code"], tenant=tenant_id)
    await wake(ledger)
    return answer | {"pipeline": pipeline, "tenant_id": tenant_id}


async def _tried(ledger: Ledger, sql: str, *args: Any) -> Answer:
    for rest in reversed(range(TRIES)):
        try:
            return dict(await ledger.calls.value(sql, *args, ledger.clock.now()))
        except Exception as error:
            if not rest or not is_conflict(error):
                raise
            await asyncio.sleep(0.1)
    raise AssertionError("the last try gives or raises")
