"""Group commit: calls that come while a transaction is under way share the next one, so fsyncs and round trips are few.

A batch that the database refuses for one item's sake is halved until the item is alone; an outage is waited out with the batch in hand.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import structlog

from streams.ledger.connection import Connection, is_conflict, is_nobodys_fault

log = structlog.get_logger(__name__)

GATHERED = 0.003
"""Seconds for which items gather while many come: a statement for thirty costs not much more than one for ten, and a single item waits for nobody."""
FEW = 2
"""Items under way beside which another lane begins: more of them are a crowd, which shares its statements."""
PATIENCE = 1.0
"""Seconds after which a batch keeps no other lane from going on: it may be waiting for the lock of one tenant."""
Item = dict[str, Any]
Send = Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Any]]]


class ItemRefused(Exception):
    """The database cannot store this one item (SQLSTATE in `code`); the rest of its batch went through."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Stopped(Exception):
    """The worker stops while the database is away: the call was not carried out as far as anybody knows."""


class GroupCommit:
    """Submits items in batches over one or more connections ("lanes")."""

    def __init__(self, connections: Sequence[Connection], send: Send, *, most: int = 128, waiting: int = 10_000) -> None:
        self._connections, self._send, self._most = connections, send, most
        self._queue: deque[tuple[Item, asyncio.Future[Any]]] = deque()
        self._room = asyncio.Semaphore(waiting)
        self._wake = asyncio.Event()
        self._lanes: list[asyncio.Task[None]] = []
        self._under_way: dict[Connection, tuple[float, int]] = {}
        """Since when each lane carries how many items."""
        self._last = 0
        """Items of the last batch."""
        self._stopping = False
        self.outage: str | None = None
        """What keeps the database from answering, for the readiness probe; None when all is well."""

    def start(self) -> None:
        self._lanes = [asyncio.create_task(self._lane(connection)) for connection in self._connections]

    async def stop(self) -> None:
        """Finish what was submitted; during an outage give it up with `Stopped`."""
        self._stopping = True
        self._wake.set()
        await asyncio.gather(*self._lanes)

    async def submit(self, item: Item) -> Any:
        """The answer to this item once the transaction that carried it is durable."""
        if self._stopping and self.outage:
            raise Stopped
        async with self._room:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._queue.append((item, future))
            self._wake.set()
            return await future

    async def _lane(self, connection: Connection) -> None:
        while True:
            if not self._queue:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            if self._crowd() > FEW:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        self._wake.clear()
                        await self._wake.wait()
                continue
            if 1 < self._last < self._most:
                await asyncio.sleep(GATHERED)
            batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
            if not batch:  # another lane was faster
                continue
            self._under_way[connection], self._last = (asyncio.get_running_loop().time(), len(batch)), len(batch)
            # lock order: by tenant, so that two lanes never wait for each other
            batch.sort(key=lambda entry: entry[0].get("tenant") or "")
            try:
                await self._carry_out(connection, batch)
            finally:
                del self._under_way[connection]
                self._wake.set()

    def _crowd(self) -> int:
        """Items under way, without those that are stuck."""
        now = asyncio.get_running_loop().time()
        return sum(items for began, items in self._under_way.values() if now - began < PATIENCE)

    async def _carry_out(self, connection: Connection, batch: list[tuple[Item, asyncio.Future[Any]]]) -> None:
        delay = 0.05
        while True:
            try:
                answers = await self._send(connection, [item for item, _ in batch])
            except Exception as error:
                if is_conflict(error):
                    await asyncio.sleep(delay)
                elif is_nobodys_fault(error):
                    await connection.drop()
                    if self._stopping:
                        return _fail(batch, Stopped())
                    if self.outage is None:
                        log.warning("the ledger does not answer; waiting for it", error=repr(error))
                    self.outage = repr(error)
                    await asyncio.sleep(delay)
                elif len(batch) > 1:
                    half = len(batch) // 2
                    await self._carry_out(connection, batch[:half])
                    return await self._carry_out(connection, batch[half:])
                else:
                    return _fail(batch, _refusal(error))
                delay = min(delay * 2, 1.0)
                continue
            if self.outage is not None:
                log.info("the ledger answers again")
                self.outage = None
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
            return None


def _fail(batch: list[tuple[Item, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _refusal(error: Exception) -> ItemRefused:
    code = error.sqlstate if isinstance(error, asyncpg.PostgresError) and error.sqlstate else type(error).__name__
    log.error("the ledger refused one item", code=code, error=str(error)[:500])
    return ItemRefused(str(code), str(error)[:500])
