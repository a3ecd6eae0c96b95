"""Watches the ledger while chaos goes on: who works on what, how long nothing moved, and how long a killed worker's steps waited."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

_HELD = """
select s.run_id, s.stage, s.fence, s.round from steps s join workers w on w.worker_id = s.worker
where w.pid = $1 and s.state = 'running'
"""
_MOVED = "select run_id, stage, fence, state, worker from steps where run_id = any($1)"
_OPEN = "select count(*) from runs where state in ('pending', 'running', 'cancelling')"
_OUTBOX = "select count(*) from outbox"
_NUMBER = "select coalesce(sum(seq), 0)::bigint from tenant_heads"

Held = tuple[UUID, str, int]
"""(run, stage, fence) of a step in somebody's hands."""


@dataclass
class Watch:
    """One connection to the ledger that comes back after every outage."""

    dsn: str
    recovery: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What was measured -> seconds, one number an event."""
    quiet: float = 0.0
    """The longest time in which work was open and nothing moved, since it was last set to 0."""
    _connection: "asyncpg.Connection[Any] | None" = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def fetch(self, query: str, *args: Any) -> list[Any] | None:
        """The rows, or None while the ledger is away."""
        async with self._lock:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self.dsn, timeout=3, command_timeout=5)
                return list(await self._connection.fetch(query, *args))
            except Exception:  # a connection that is shot down in mid-answer fails in ways the driver never meant to show
                if self._connection is not None:
                    self._connection.terminate()
                self._connection = None
                return None

    async def number(self, query: str) -> int | None:
        rows = await self.fetch(query)
        return None if rows is None else int(rows[0][0])

    async def held_by(self, pid: int) -> list[Held]:
        """The steps that the worker process has in hand."""
        rows = await self.fetch(_HELD, pid)
        return [(row["run_id"], row["stage"], row["fence"]) for row in rows or ()]

    def time(self, what: str, held: list[Held], *, since: float, patience: float = 60) -> None:
        """Measure in the background how long it takes until each of these steps is in other hands, or over."""
        if held:
            task = asyncio.create_task(self._time(what, held, since, patience))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def note(self, what: str, event: Awaitable[object], *, since: float) -> None:
        """Measure in the background how long it takes until something has happened."""

        async def wait() -> None:
            await event
            self.recovery[what].append(time.monotonic() - since)

        task = asyncio.create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _time(self, what: str, held: list[Held], since: float, patience: float) -> None:
        left = {(run, stage): fence for run, stage, fence in held}
        while left and time.monotonic() < since + patience:
            rows = await self.fetch(_MOVED, list({run for run, _ in left}))
            for row in rows or ():
                key = row["run_id"], row["stage"]
                if key in left and ((row["fence"] > left[key] and row["worker"] is not None) or row["state"] not in ("ready", "running")):
                    del left[key]
                    self.recovery[what].append(time.monotonic() - since)
            await asyncio.sleep(0.05)
        self.recovery[what] += [patience] * len(left)

    async def settle(self, patience: float = 70) -> None:
        """Wait for what is being measured."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)

    async def run(self) -> None:
        """Notes the longest quiet until cancelled."""
        last, moved = -1, time.monotonic()
        while True:
            number, backlog = await self.number(_NUMBER), await self.number(_OPEN)
            if backlog == 0 or (number is not None and number != last):
                last, moved = number if number is not None else last, time.monotonic()
            self.quiet = max(self.quiet, time.monotonic() - moved)
            await asyncio.sleep(0.1)

    async def backlog(self) -> int | None:
        """Open runs and unpublished events; None while the ledger is away."""
        runs, events = await self.number(_OPEN), await self.number(_OUTBOX)
        return None if runs is None or events is None else runs + events

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._connection is not None:
            self._connection.terminate()
