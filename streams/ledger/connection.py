"""One pinned connection to the ledger: opened when first needed, opened again after an outage, never reset between calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

log = structlog.get_logger(__name__)

OUTAGE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
"""InternalClientError: what the driver says when a connection breaks in the middle of an answer; it is about no item."""
SERVER_LATER = 1000
"""Milliseconds for which the server waits longer than we do: the error is ours then, and says what we waited for."""
KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
"""The server notices within half a minute that a machine is gone without a word."""
_OUTAGE_CLASSES = frozenset({"08", "53", "57", "58", "25"})  # connection, resources, operator, system, read-only
_FOREIGN_CLASSES = frozenset({"42", "XX"})  # a function that is not there, or not this one, during an upgrade; a fault of the server
_RETRY_CODES = frozenset({"40001", "40P01", "55P03"})


def is_outage(error: BaseException) -> bool:
    """Whether the database, not the statement, is the trouble: wait and try the same thing again."""
    if isinstance(error, OUTAGE) and not isinstance(error, asyncpg.DataError):
        return True
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _OUTAGE_CLASSES


def is_nobodys_fault(error: BaseException) -> bool:
    """Whether it says nothing about the item: the same thing is tried again when schema or server are as they should be."""
    return is_outage(error) or (isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _FOREIGN_CLASSES)


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions got in each other's way: the same thing will work when tried again."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _RETRY_CODES


class Connection:
    """A connection used by one caller at a time."""

    def __init__(self, dsn: str, *, statement_timeout: float = 15, name: str = "tidemill", worker: UUID | None = None) -> None:
        """`worker`: who publishes what is put into the outbox through this connection."""
        self._dsn, self._timeout, self._name, self._worker = dsn, statement_timeout, name, worker
        self._raw: asyncpg.Connection[Any] | None = None
        self._lock = asyncio.Lock()

    async def raw(self) -> "asyncpg.Connection[Any]":
        """The live connection; raises an outage error when there is none to be had."""
        if self._raw is None or self._raw.is_closed():
            self._raw = await connect(self._dsn, timeout=self._timeout, name=self._name, worker=self._worker)
        return self._raw

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Rows of one statement."""
        async with self._lock:
            try:
                return await (await self.raw()).fetch(sql, *args)
            except (TimeoutError, asyncio.CancelledError):
                await self.drop()  # what the server still does with it is unknown
                raise

    async def value(self, sql: str, *args: Any) -> Any:
        """First column of the first row, or None."""
        rows = await self.fetch(sql, *args)
        return rows[0][0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """The connection, nobody else's until the end of the block; an exception undoes everything."""
        async with self._lock:
            raw = await self.raw()
            async with raw.transaction():
                yield raw

    async def drop(self) -> None:
        """Give up the connection; the next call opens another."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.terminate()

    async def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None and not raw.is_closed():
            try:
                await raw.close(timeout=2)
            except (*OUTAGE, asyncpg.PostgresError):
                raw.terminate()


async def connect(dsn: str, *, timeout: float, name: str, worker: UUID | None = None) -> "asyncpg.Connection[Any]":
    """A connection on which jsonb travels as Python values.

    The server, too, ends what takes longer than `timeout` seconds: a statement that nobody waits for any more, a transaction of a worker that is
    frozen or cut off. Their locks would keep tenants from everybody else.
    """
    longest = str(int(timeout * 1000) + SERVER_LATER)
    said = {"application_name": name, "statement_timeout": longest, "idle_in_transaction_session_timeout": longest, **KEEPALIVES}
    said |= {"tidemill.worker": str(worker)} if worker else {}
    raw: asyncpg.Connection[Any] = await asyncpg.connect(dsn, timeout=5, command_timeout=timeout, server_settings=said)
    await raw.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=str),  # asyncpg's own UUIDs are none for orjson
        decoder=lambda data: orjson.loads(data[1:]),
    )
    return raw
