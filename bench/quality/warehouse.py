"""Fills the warehouse of the benchmark as fast as it goes: tables without a log, rows before indexes; loading is no part of any figure."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from expectations.profile import TOGETHER, Due, parameters, text
from expectations.warehouse import Warehouse, create_tables

SPREAD = timedelta(days=30)
"""Time over which a tenant's interactions lie."""
TABLES = ("tenants", "users", "items", "user_interactions", "model_training_runs")
_PARTS = re.split(r"^-- (\w+)\(.*$", Path(__file__).with_name("warehouse.sql").read_text(), flags=re.MULTILINE)
_SQL = dict(zip(_PARTS[1::2], _PARTS[2::2], strict=True))
_INDEXES = """
select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made from pg_index
where indrelid = any($1::regclass[]) and not indisprimary
"""


class Size(NamedTuple):
    """How much there is."""

    tenants: int
    rows: int
    users: int = 100
    items: int = 1000
    giant: int = 0
    """More rows of the first tenant."""

    @property
    def each(self) -> int:
        return self.rows // self.tenants


async def load(dsn: str, size: Size) -> float:
    """Everything in its place, analysed; gives the seconds it took."""
    began = time.monotonic()
    await create_tables(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("set synchronous_commit = off; set maintenance_work_mem = '512MB'")
        indexes = await connection.fetch(_INDEXES, list(TABLES))
        for index in indexes:
            await connection.execute(f"drop index {index['name']}")
        for table in TABLES:
            await connection.execute(f"truncate {table}; alter table {table} set unlogged")
        await connection.execute(_SQL["tenants"], size.tenants)
        await connection.execute(_SQL["users"], size.tenants, size.users)
        await connection.execute(_SQL["items"], size.tenants, size.items)
        await connection.execute(_SQL["trained"], size.tenants)
        newest = datetime.now(UTC) - timedelta(minutes=20)  # older than what is still counted anew
        await _interactions(connection, size, size.rows, SPREAD.total_seconds() / size.each, newest)
        if size.giant:
            apart, before = SPREAD.total_seconds() / size.giant, newest - timedelta(milliseconds=1)
            await _interactions(connection, size._replace(tenants=1), size.giant, apart, before)
        for index in indexes:
            await connection.execute(index["made"])
    finally:
        await connection.close()
    await analyse(dsn)
    return time.monotonic() - began


async def analyse(dsn: str) -> None:
    """As autovacuum leaves tables that were there for a while."""
    connection = await asyncpg.connect(dsn)
    try:
        for table in TABLES:
            await connection.execute(f"vacuum (analyze) {table}")
    finally:
        await connection.close()


async def add(dsn: str, size: Size, rows: int) -> None:
    """New interactions of all tenants, within the last minutes."""
    connection = await asyncpg.connect(dsn)
    try:
        await _interactions(connection, size, rows, 1.0, datetime.now(UTC))
    finally:
        await connection.close()


async def bare(warehouse: Warehouse, tenants: list[str], types: tuple[str, ...], since: datetime | None = None) -> dict[str, float]:
    """Seconds of each statement of the profile alone, once for all tenants: nothing is judged, kept or told."""
    now = datetime.now(UTC)
    due = parameters([Due(tenant, types, since) for tenant in tenants], now, now, timedelta(minutes=5))
    took: dict[str, float] = {}
    async with warehouse.snapshot() as connection:
        await connection.execute("set local statement_timeout = 0")
        await warehouse.become_reader(connection)
        for some in TOGETHER:
            began = time.monotonic()
            await connection.fetch(text(some, incremental=since is not None and some[0].incremental), *due, timeout=600)
            took[some[0].name] = round(time.monotonic() - began, 3)
    return took


async def _interactions(connection: "asyncpg.Connection[Any]", size: Size, rows: int, apart: float, newest: datetime) -> None:
    await connection.execute(_SQL["interactions"], size.tenants, size.users, size.items, rows, apart, newest, timeout=600)
