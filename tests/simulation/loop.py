"""An event loop whose time is virtual: it stands while a real answer is awaited and jumps to the next timer when nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

START = 1000.0
TICK = 2e-9
PATIENCE = 0.01
"""Real seconds without an answer after which it is asked whether a statement waits for a lock."""
STUCK = 20.0
"""Real seconds after which nobody will ever answer."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers cost nothing; statements cost what PostgreSQL takes."""

    def __init__(self) -> None:
        self.now, self._timers = START, 0
        self.outstanding = self.certain = 0
        self.idle: Callable[[], bool] = lambda: False
        """Asked when nothing is ready: may start something that waited for its turn."""
        self.blocked: Callable[[], bool] = lambda: False
        """Whether a statement waits for a lock: then others may go on, and so may time."""
        self.stalled: Callable[[], bool] = lambda: False
        """Asked when a statement is blocked: may start something else meanwhile."""
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def begin(self) -> None:
        """A new seed: the same sums of floats as in its last life."""
        self.now, self._timers = START, 0

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        """Timers of one moment ring in the order in which they were set."""
        self._timers += 1
        return super().call_at(when + self._timers * TICK, callback, *args, context=context)

    @contextmanager
    def awaiting(self, *, certain: bool = True) -> Iterator[None]:
        """Time stands: an answer from outside is awaited. Not `certain`: it may need others to go on first."""
        self.outstanding += 1
        self.certain += certain
        try:
            yield
        finally:
            self.outstanding -= 1
            self.certain -= certain

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """A thread's work counts as an answer from outside."""
        waiting = self.awaiting()
        waiting.__enter__()
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: waiting.__exit__(None, None, None))
        return future


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]  # whichever this system has
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        loop = self._loop
        if loop.outstanding == 0:
            if events := super().select(0):
                return events
            if loop.idle():
                return []
            if timeout is None:
                return super().select(0.05)  # only another thread can bring news
            loop.now += timeout
            return []
        if loop.certain == 0 and loop.idle():
            return []
        for _ in range(int(STUCK / PATIENCE)):
            if events := super().select(PATIENCE):
                return events
            if loop.certain == 0 and loop.blocked():
                break
        else:
            raise RuntimeError(f"PostgreSQL gave no answer for {STUCK:.0f} s")
        if loop.stalled():
            return []
        if timeout is None:
            raise RuntimeError("a statement waits for a lock that nobody will give back")
        loop.now += timeout
        return []
