"""The web application over a travelling worker's ledger, asked without a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from streams.ledger.connection import Connection
from streams.ledger.reader import Reader
from streams.web import make_web
from tests.travel import Travel
from tests.unit.web_fakes import World


@asynccontextmanager
async def web_of(travel: Travel) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends JSON, as the pages' buttons do."""
    connection = Connection(travel.dsn)
    parts = World().parts()
    object.__setattr__(parts, "ledger", travel.ledger)
    object.__setattr__(parts, "reader", Reader(connection))
    transport = httpx.ASGITransport(make_web(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", headers={"Content-Type": "application/json"}) as web:
        yield web
    await connection.close()
