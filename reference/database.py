"""The one SQLite file in which a neighbour keeps all that must outlive its process."""

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self, TypeVar

T = TypeVar("T")


class Database:
    """A connection on a thread of its own: callers await transactions, the event loop never waits for the disk."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _only_one(file.with_suffix(".lock"))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=file.stem)
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("pragma journal_mode = wal")
        # a killed process loses nothing with NORMAL; only a power cut may lose the last transactions
        self._connection.execute("pragma synchronous = normal")

    def create(self, schema: str) -> Self:
        """Make sure that the tables of one concern exist."""
        self._connection.executescript(schema)
        return self

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in one transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._connection.execute("begin immediate")
        try:
            result = work(self._connection)
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")
        return result

    def close(self) -> None:
        self._thread.shutdown()
        self._connection.close()
        self._lock.close()


def _only_one(file: Path, patience: float = 5.0) -> IO[bytes]:
    """Hold `file` as this service's only process; a predecessor that is just ending gets `patience` seconds.

    The lock is what makes "an unfinished reservation of another owner belongs to a dead process" true.
    """
    handle = file.open("ab")
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                handle.close()
                raise SystemExit(f"{file.stem} runs already ({os.fspath(file)} is locked); stop it or set REFERENCE_DATA") from None
            time.sleep(0.05)
        else:
            return handle
