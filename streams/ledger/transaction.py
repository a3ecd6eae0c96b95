"""Several statements as one, for moves of operators that are no batch."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from streams.ledger.connection import Connection


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """The connection, nobody else's until the end of the block; an exception undoes everything."""
    async with connection._lock:
        raw = await connection.raw()
        async with raw.transaction():
            yield raw
