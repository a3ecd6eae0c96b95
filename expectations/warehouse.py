"""The tenants' warehouse as the measuring reads it: one read-only connection, one snapshot, bounded waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

_KNOWN = "select exists (select 1 from tenants where tenant_id = $1)"


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
        """Whether the tenant is in the warehouse; one without tables knows nobody, and where it may not be asked, it may be watched."""
        connection = await self.connect()
        try:
            return bool(await connection.fetchval(_KNOWN, tenant_id, timeout=5))
        except asyncpg.UndefinedTableError:
            return False
        except asyncpg.InsufficientPrivilegeError:
            return True
        finally:
            await _close(connection)


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
