"""Databases that a test made for itself and takes away again."""

import asyncio
import time
from typing import Any

import asyncpg


async def drop_database(connection: "asyncpg.Connection[Any]", name: str, *, within: float = 60) -> None:
    """Drop it with whoever is connected. An autovacuum worker at work there may not be stopped by our role: it is waited for."""
    end = time.monotonic() + within
    while True:
        try:
            await connection.execute(f'drop database if exists "{name}" with (force)')
        except asyncpg.InsufficientPrivilegeError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)
        else:
            return
