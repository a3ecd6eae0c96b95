"""A child process that stays: for work whose imports take seconds. One call at a time; it is killed when one hangs, and started anew for the next."""

import asyncio
import os
import pickle
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from typing import Any, Self, TypeVar

import structlog

from streams.cpu import CHILD, LARGEST_RESULT, ChildDied, ChildFailed, end, environment, locate

log = structlog.get_logger(__name__)
R = TypeVar("R")

IDLE_LIMIT = 500
"""Calls after which a child is replaced: whatever it may leak is gone then."""


class ResidentChild:
    """Started when first needed, restarted after a death, gone with its parent; allowed `memory` bytes beyond its start."""

    def __init__(self, *, memory: int) -> None:
        self._memory = memory
        self._turn = asyncio.Lock()
        self._child: Process | None = None
        self._calls = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def run(self, function: Callable[..., R], *args: Any, timeout: float) -> R:
        """Call a module-level function in the child; `TimeoutError` after so many seconds of it, not of waiting for a turn: it is killed then."""
        request = pickle.dumps(locate(function)) + pickle.dumps(args)
        async with self._turn:
            try:
                async with asyncio.timeout(timeout):
                    answer = await self._ask(request)
            except TimeoutError:
                await self._stop()
                raise TimeoutError(f"{function.__name__} took longer than {timeout:g} s and was stopped") from None
            except BaseException:  # cancelled, or the pipe broke: what the child still does is unknown
                await self._stop()
                raise
            self._calls += 1
            if self._calls >= IDLE_LIMIT:
                await self._stop()
        outcome, *rest = pickle.loads(answer)  # from our own child
        if outcome == "failed":
            raise ChildFailed(*rest)
        return rest[0]  # type: ignore[no-any-return]  # what the function returned

    async def _ask(self, request: bytes) -> bytes:
        child = await self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(request)
            await child.stdin.drain()
            size = int.from_bytes(await child.stdout.readexactly(8), "big")
            if size > LARGEST_RESULT:
                raise ChildDied(f"an answer of {size} bytes, at most {LARGEST_RESULT} are read")
            return await child.stdout.readexactly(size)
        except (ConnectionError, asyncio.IncompleteReadError):
            status = await child.wait()
            raise ChildDied(f"status {status} without an answer") from None

    async def _started(self) -> Process:
        if self._child is None or self._child.returncode is not None:
            self._child = child = await asyncio.create_subprocess_exec(
                sys.executable, "-P", CHILD, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment(), start_new_session=True, limit=1 << 20
            )
            self._calls = 0
            assert child.stdin is not None
            child.stdin.write(pickle.dumps({"path": sys.path, "memory": self._memory, "parent": os.getpid(), "resident": True}))
            log.debug("resident child started", pid=child.pid)
        return self._child

    async def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await asyncio.shield(end(child))
