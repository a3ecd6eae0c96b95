"""The tenants' warehouse as the measuring reads it: one read-only connection, one snapshot, bounded waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from expectations.trouble import is_away

_ANY_THERE = "select bool_or(to_regclass(n) is not null) from unnest($1::text[]) n"
_TABLES = ("tenants", "users", "items", "user_interactions")
_KNOWN = "select " + " or ".join(f"exists (select 1 from {table} where tenant_id = $1)" for table in _TABLES)


@dataclass(frozen=True, slots=True)
class Warehouse:
    """Where the watched tables are, and how long anything there may take."""

    dsn: str = field(repr=False)
    role: str | None = None
    statement_timeout: float = 30
    least_timeout: float = 5
    lock_timeout: float = 2
    work_mem: str = "64MB"

    async def connect(self) -> "asyncpg.Connection[Any]":
        """A connection that does not write; `become_reader` makes it one that cannot."""
        settings = {
            "application_name": "tidemill-quality",
            "default_transaction_read_only": "on",
            "lock_timeout": f"{int(self.lock_timeout * 1000)}ms",
            "statement_timeout": f"{int(self.statement_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": "5min",
            "timezone": "UTC",
            "work_mem": self.work_mem,
            "jit": "off",
            "max_parallel_workers_per_gather": "0",  # others work there too: one core a worker that measures
            "enable_mergejoin": "off",  # what lies unsorted is sooner hashed than sorted
            "plan_cache_mode": "force_custom_plan",  # a plan for one tenant is none for two hundred
        }
        return await asyncpg.connect(self.dsn, timeout=5, server_settings=settings)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection that sees one moment of the warehouse until the end of the block."""
        connection = await self.connect()
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await _close(connection)

    async def become_reader(self, connection: "asyncpg.Connection[Any]") -> None:
        """Take on the reading role for the rest of the transaction."""
        if self.role:
            await connection.execute("select set_config('role', $1, true)", self.role)

    async def knows(self, tenant_id: str) -> bool:
        """Whether the warehouse has an entry or rows of the tenant, by the rule of `Profile.watched`: in doubt it has."""
        try:
            async with self.snapshot() as connection:
                if not await connection.fetchval(_ANY_THERE, [*_TABLES, "model_training_runs"]):
                    return False
                await self.become_reader(connection)
                await connection.execute("select set_config('statement_timeout', $1, true)", f"{int(self.least_timeout * 1000)}ms")
                return bool(await connection.fetchval(_KNOWN, tenant_id, timeout=self.least_timeout + 10))
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            if is_away(error):
                raise
            return True


async def create_tables(dsn: str) -> None:
    """Make the watched tables and the roles that read and fill them, as demo and tests need them."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(Path(__file__).with_name("warehouse.sql").read_text())
    finally:
        await connection.close()


async def _close(connection: "asyncpg.Connection[Any]") -> None:
    try:
        await connection.close(timeout=2)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
