"""CPU work and dangerous reads in child processes: one killable process a call, with a memory limit, dying with its parent."""

import asyncio
import importlib
import multiprocessing
import os
import resource
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reference.errors import Failed

_context = multiprocessing.get_context("forkserver")
MEMORY = 4 << 30
"""Bytes of address space a child may use beyond what it starts with."""


def limit_threads() -> None:
    """One BLAS and OpenMP thread a process: two jobs on two cores otherwise fight with four."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def prepare(*modules: str) -> None:
    """Start the server that forks the children, with their slow imports already done."""
    limit_threads()
    _context.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


async def call(function: str, *arguments: Any) -> Any:
    """Run `module:function` in a child of its own and return what it returns; cancelled, the child is killed."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_work, args=(theirs, function, arguments), daemon=True)
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        await _readable(ours)
        kind, *result = ours.recv()
    except EOFError:
        await asyncio.to_thread(process.join, 5)
        raise Failed("child_died", f"the process doing the work died (exit code {process.exitcode}); the data may be crafted or too big") from None
    finally:
        process.kill()
        ours.close()
        await asyncio.shield(asyncio.to_thread(process.join, 5))
    if kind == "failed":
        raise Failed(*result)
    return result[0]


async def _readable(connection: Connection) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())


def _work(connection: Connection, function: str, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    _limit_memory()
    module, _, name = function.partition(":")
    try:
        connection.send(("done", getattr(importlib.import_module(module), name)(*arguments)))
    except Failed as failed:
        connection.send(("failed", failed.code, failed.sentence))
    except MemoryError:
        connection.send(("failed", "out_of_memory", "the work needs more memory than one job may use"))
    except Exception as error:  # the border of a process: everything crosses it as a code and a sentence
        connection.send(("failed", "child_failed", f"the work failed with {type(error).__name__}: {error}"[:500]))


def _die_with_parent(connection: Connection) -> None:
    """The parent never sends; so the end of this read is the end of the parent."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
