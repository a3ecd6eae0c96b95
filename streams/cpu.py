"""CPU work beside the event loop: one killable child process a call, which dies with the worker and cannot take its memory."""

import asyncio
import contextlib
import importlib.util
import inspect
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

R = TypeVar("R")

LARGEST_RESULT = 16 << 20
"""Bytes; large things go through files."""
KEPT_STDERR = 4096
CHILD = str(Path(__file__).with_name("cpu_child.py"))
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""The child gets no other variables: it reads files that others made, and settings hold secrets."""


class ChildDied(Exception):
    """The child ended without an answer: killed by a signal (named), or gone with an exit code."""

    def __init__(self, cause: str, last_words: str = "") -> None:
        super().__init__(f"{cause}: {last_words}" if last_words else cause)
        self.cause = cause


class ChildFailed(Exception):
    """The function raised: `code` (its own, or derived from the type), the type's name and the text; never the exception itself."""

    def __init__(self, code: str, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.code, self.kind, self.text = code, kind, text


class ChildProcesses:
    """Up to `n` children at a time, each allowed `memory` bytes of address space beyond its start."""

    def __init__(self, n: int, *, memory: int) -> None:
        self._n, self._memory = n, memory
        self._slots = asyncio.Semaphore(n)
        self._running: set[Process] = set()
        self._taken = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in tuple(self._running):
            await end(child)

    @property
    def free(self) -> int:
        """How many calls would begin at once."""
        return max(0, self._n - self._taken)

    async def run(self, function: Callable[..., R], *args: Any, timeout: float) -> R:
        """Call a module-level function in a child; `TimeoutError` after so many seconds of it (not of waiting for one). Cancelling kills it."""
        request = _request(function, args, self._memory)
        self._taken += 1
        try:
            async with self._slots:
                return await self._call(function.__name__, request, timeout)  # type: ignore[no-any-return]  # what the function returned
        finally:
            self._taken -= 1

    async def _call(self, name: str, request: bytes, timeout: float) -> Any:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", CHILD, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(), start_new_session=True, limit=1 << 20
        )
        self._running.add(child)
        try:
            async with asyncio.timeout(timeout):
                answer, last_words = await _talk(child, request)
                await child.wait()
        except TimeoutError:
            raise TimeoutError(f"{name} took longer than {timeout:g} s and was stopped") from None
        finally:
            await asyncio.shield(end(child))
            self._running.discard(child)
        return _read(child.returncode or 0, answer, last_words)


async def _talk(child: Process, request: bytes) -> tuple[bytes, str]:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    async with asyncio.TaskGroup() as both:
        answer = both.create_task(_up_to(LARGEST_RESULT, child.stdout))
        words = both.create_task(_tail(child.stderr))
        with contextlib.suppress(ConnectionError):  # it died while it was told what to do: its exit status says why
            child.stdin.write(request)
            await child.stdin.drain()
            child.stdin.close()
    return answer.result(), words.result()


async def _up_to(limit: int, pipe: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while chunk := await pipe.read(65536):
        if len(data) <= limit:
            data += chunk
    return bytes(data) if len(data) <= limit else b""


async def _tail(pipe: asyncio.StreamReader) -> str:
    data = b""
    while chunk := await pipe.read(65536):
        data = (data + chunk)[-KEPT_STDERR:]
    return data.decode(errors="replace").strip()


async def end(child: Process) -> None:
    """Kill the child, if it still lives, and all it started; then let its pipes go."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _read(status: int, answer: bytes, last_words: str) -> Any:
    if status < 0:
        raise ChildDied(signal.Signals(-status).name, last_words[-500:])
    if status > 0 or not answer:
        raise ChildDied(f"exit status {status}, no answer", last_words[-500:])
    outcome, *rest = pickle.loads(answer)  # from our own child
    if outcome == "failed":
        raise ChildFailed(*rest)
    return rest[0]


def _request(function: Callable[..., Any], args: tuple[Any, ...], memory: int) -> bytes:
    where = locate(function) | {"path": sys.path, "memory": memory, "parent": os.getpid()}
    return pickle.dumps(where) + pickle.dumps(args)


def locate(function: Callable[..., Any]) -> dict[str, Any]:
    """Where the function is defined, by file: loading a package's `__init__` would bring half of the house into the child."""
    module, name = function.__module__, function.__qualname__
    file = None if inspect.isbuiltin(function) or isinstance(function, type) else inspect.getsourcefile(function)
    if "<" in name or (file is None and importlib.util.find_spec(module) is None):
        raise TypeError(f"{name} must be a function of a module, so that a child can find it")
    return {"module": module, "file": file, "name": name}


def environment() -> dict[str, str]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | one_thread
