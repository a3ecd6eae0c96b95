"""A tenant's journal as server-sent events: their ids are its numbers, so a reader that comes back misses and repeats nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse

from streams.ledger.connection import is_outage
from streams.web.errors import Problem
from streams.web.parts import Parts, TenantPath, Use
from streams.web.tail import PAGE, Journal

router = APIRouter(prefix="/api/v1", tags=["api"])

POLL = 0.5
BEAT = 15.0
"""Seconds after which a quiet stream says that it lives."""
LIFE = 900.0
"""Seconds after which a stream ends; the browser comes back with the number of the last event it saw."""
MOST = 64
"""Streams one process serves at a time."""


@router.get("/tenants/{tenant_id}/events", response_class=StreamingResponse)
async def events(
    use: Use,
    tenant_id: TenantPath,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
    after: Annotated[int | None, Query(ge=0)] = None,
    last: Annotated[int, Query(ge=0, le=1000)] = 0,
) -> StreamingResponse:
    """What happens to the tenant, as it happens: from `Last-Event-ID` (or `after`) on, else from now on with the `last` so many before."""
    head = await use.journal.head(tenant_id)
    if head is None:
        raise Problem(404, "unknown_tenant", f"there is no tenant {tenant_id}; `tidemill tenants list` lists what there is")
    if use.journal.open >= MOST:
        raise Problem(503, "too_many_streams", f"this process serves {MOST} streams already; try again later")
    since = last_event_id if last_event_id is not None else after
    body = _stream(use, tenant_id, max(0, head - last) if since is None else since)
    return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _stream(use: Parts, tenant: str, seq: int) -> AsyncIterator[bytes]:
    use.journal.open += 1
    end, said = time.monotonic() + LIFE, time.monotonic()
    try:
        yield b"retry: 1000\n\n"
        while time.monotonic() < end and not use.stopping.is_set():
            entries = await _entries(use.journal, tenant, seq)
            for entry in entries:
                seq = entry["seq"]
                yield event(entry)
            if entries:
                said = time.monotonic()
            elif time.monotonic() - said > BEAT:
                said = time.monotonic()
                yield b": here\n\n"
            if len(entries) < PAGE:
                await _pause(use.stopping)
    finally:
        use.journal.open -= 1


async def _entries(journal: Journal, tenant: str, seq: int) -> list[dict[str, Any]]:
    """The next page; during an outage nothing, the stream goes on afterwards."""
    try:
        return await journal.after(tenant, seq)
    except Exception as error:
        if not is_outage(error):
            raise
        return []


async def _pause(stopping: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), POLL)
    except TimeoutError:
        return


def event(entry: dict[str, Any]) -> bytes:
    """One journal entry in the wire format; JSON has no line breaks, so it is one data line."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry["seq"], entry["kind"].encode(), orjson.dumps(entry, default=str))
