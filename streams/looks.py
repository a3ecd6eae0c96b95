"""Looks at all tenants, now and then, each by one worker at a time: the row in `looks` says whose turn it is."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from streams.ledger.connection import Connection, is_conflict, is_outage

log = structlog.get_logger(__name__)

PAUSE = 5.0
"""Seconds from one question whose turn it is to the next."""


async def now_and_then(connection: Connection, what: str, every: timedelta, look: Callable[[], Awaitable[object]]) -> None:
    """Look until cancelled, whenever nobody has for so long; an outage of the ledger is waited out."""
    while True:
        try:
            if await connection.value("select may_look($1, $2)", what, every):
                await look()
        except Exception as error:
            if isinstance(error, TimeoutError):  # an outage, or a look that never ends in time: nobody would hear of what it looks for
                said = "a look at all tenants was broken off, and nothing is told of what it did not see; is the ledger away, or slow?"
                log.warning(said, code="look_timed_out", look=what)
            elif not (is_outage(error) or is_conflict(error)):
                log.exception("a look at all tenants failed; trying again", look=what)
            await connection.drop()
        await asyncio.sleep(PAUSE)
