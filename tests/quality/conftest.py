"""Fixtures of the data-quality tests: PostgreSQL alone in place of the whole platform, and a warehouse a test."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from expectations.warehouse import Warehouse, create_tables
from tests.databases import drop_database
from tests.fakes import FakeMonitoring
from tests.quality.world import World, open_world
from tests.simulation.server import running_server


@pytest.fixture(scope="session")
def platform() -> Iterator[dict[str, Any]]:
    """Only the database server: nothing here needs more."""
    with running_server() as server:
        yield {"postgres": server.dsn("warehouse")}


@pytest.fixture
async def warehouse_dsn(platform: dict[str, Any]) -> AsyncIterator[str]:
    """An empty warehouse of this test's own."""
    name = f"warehouse_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(platform["postgres"])
    try:
        await connection.execute(f"create database {name}")
        dsn = platform["postgres"].rsplit("/", 1)[0] + "/" + name
        await create_tables(dsn)
        yield dsn
        await drop_database(connection, name)
    finally:
        await connection.close()


@pytest.fixture
async def tables(warehouse_dsn: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection that may write into the warehouse."""
    connection = await asyncpg.connect(warehouse_dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def warehouse(warehouse_dsn: str) -> Warehouse:
    """The warehouse as the measuring reads it."""
    return Warehouse(warehouse_dsn, role="tidemill_reader", statement_timeout=10, least_timeout=1, lock_timeout=0.3)


@pytest.fixture
async def world(ledger_dsn: str, warehouse_dsn: str) -> AsyncIterator[World]:
    """The quality pipeline at work on this test's ledger and warehouse."""
    async with open_world(World(ledger_dsn, warehouse_dsn, FakeMonitoring())) as world:
        yield world
