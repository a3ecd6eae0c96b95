"""The workers' lines to the ledger: each statement waits for its turn, may be cut before it or after, and goes on when its sender dies."""

import asyncio
import re
from types import TracebackType
from typing import Any
from uuid import UUID

import asyncpg

from streams.ledger import connection as ledger_connection
from tests.simulation.choices import Choices
from tests.simulation.life import LIFE, Life, detached
from tests.simulation.loop import VirtualLoop

_connect = ledger_connection.connect
_NAME = re.compile(r"\b(?:from|into|update|select)\s+(?:\* from )?([a-z_]+)")


class Turns:
    """Which of the statements that are ready to go goes next: `width` at a time, more when one waits for a lock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self._running, self._waiting = loop, 0, list[asyncio.Future[None]]()
        self.choices, self.width = Choices(0), 1
        loop.idle, loop.stalled = self._admit, self._admit_one

    async def take(self) -> None:
        mine: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(mine)
        await mine

    def give_back(self) -> None:
        self._running -= 1

    def _admit(self) -> bool:
        return self._running < self.width and self._admit_one()

    def _admit_one(self) -> bool:
        if not self._waiting:
            return False
        self._running += 1
        self._waiting.pop(self.choices.number(0, len(self._waiting) - 1)).set_result(None)
        return True


class Lines:
    """Real connections, used again by the next worker: opening one costs more than all that is said on it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.turns, self._free = loop, Turns(loop), dict[str, list[Any]]()

    def install(self) -> None:
        ledger_connection.connect = self.connect

    async def connect(self, dsn: str, *, timeout: float, name: str, worker: UUID | None = None) -> Any:
        life = LIFE.get()
        if life is None:
            return await self.open(dsn)
        await life.reach("connect")
        if life.world.database_is_down(life):
            raise ConnectionRefusedError("the database is down")
        raw = await detached(self.open(dsn, worker), self.loop)
        link = Link(self, dsn, raw, life)
        life.links[link] = None
        if life.dead:
            link.terminate()
        return link

    async def open(self, dsn: str, worker: UUID | None = None) -> Any:
        await self.turns.take()
        try:
            with self.loop.awaiting():
                free = self._free.get(dsn)
                raw = free.pop() if free else await _connect(dsn, timeout=30, name="simulation")
                await raw.execute("select set_config('tidemill.worker', $1, false)", str(worker or ""))
                return raw
        finally:
            self.turns.give_back()

    def give_back(self, dsn: str, raw: Any) -> None:
        self._free.setdefault(dsn, []).append(raw)

    async def close(self) -> None:
        for raws in self._free.values():
            for raw in raws:
                with self.loop.awaiting():
                    await raw.close()
        self._free.clear()


class Link:
    """What the runtime takes for an asyncpg connection."""

    def __init__(self, lines: Lines, dsn: str, raw: Any, life: Life) -> None:
        self._lines, self._dsn, self._raw, self._life = lines, dsn, raw, life
        self._busy = self._closed = False

    async def fetch(self, sql: str, *args: Any) -> Any:
        return await self._call("fetch", sql, args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await self._call("fetchrow", sql, args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._call("fetchval", sql, args)

    async def execute(self, sql: str, *args: Any) -> Any:
        return await self._call("execute", sql, args)

    def transaction(self) -> "Transaction":
        return Transaction(self)

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        """The socket is gone; a statement under way ends on the server as it will."""
        if not self._closed:
            self._closed = True
            self._life.links.pop(self, None)
            if not self._busy:
                self._recycle()

    async def close(self, *, timeout: float = 0) -> None:
        self.terminate()

    async def _call(self, method: str, sql: str, args: tuple[Any, ...]) -> Any:
        name = _name(sql)
        await self._life.reach(f"{name} sending")
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        if self._busy:
            raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
        self._cut_perhaps("before", name)
        self._busy = True
        answer = await detached(self._carry_out(method, sql, args), self._lines.loop)
        self._cut_perhaps("after", name)
        await self._life.reach(f"{name} answered")
        return answer

    def _cut_perhaps(self, when: str, name: str) -> None:
        if self._life.world.cuts(self._life, f"{when} {name}"):
            self.terminate()
            raise asyncpg.ConnectionDoesNotExistError(f"connection was closed {when} {name}")

    async def _carry_out(self, method: str, sql: str, args: tuple[Any, ...]) -> Any:
        await self._lines.turns.take()
        try:
            with self._lines.loop.awaiting(certain=False):
                return await getattr(self._raw, method)(sql, *args)
        finally:
            self._lines.turns.give_back()
            self._busy = False
            if self._closed:
                self._recycle()

    def _recycle(self) -> None:
        if self._raw.is_in_transaction():
            self._life.world.spawn(self._roll_back())
        else:
            self._lines.give_back(self._dsn, self._raw)

    async def _roll_back(self) -> None:
        with self._lines.loop.awaiting():
            await self._raw.execute("rollback")
        self._lines.give_back(self._dsn, self._raw)


class Transaction:
    """`async with connection.transaction()`, statement by statement."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def __aenter__(self) -> None:
        await self._link.execute("begin")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._link.execute("commit" if kind is None else "rollback")


def _name(sql: str) -> str:
    if sql.startswith("select ") and "(" in sql:
        word = sql.split("(", 1)[0].split()[-1]
        if word.isidentifier() and word not in ("leased", "to_jsonb", "in", "any", "values"):
            return f"sql.{word}"
    found = _NAME.search(sql.strip())
    return f"sql.{sql.split()[0]} {found.group(1) if found and found.group(1) != sql.split()[0] else ''}".strip()
