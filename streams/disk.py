"""The local disk under a stage's files: named when it is full, and rid of the folders that killed workers left."""

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from streams.stage import TryAgain

PREFIX = "tidemill-index-"
LEFT_BEHIND = timedelta(days=1)
"""No stage works for so long: a folder this old is nobody's any more."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for one attempt, gone at the end of the block unless the worker is killed in it."""
    return tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)


@contextmanager
def room_in(folder: str | Path) -> Iterator[None]:
    """Around what writes below `folder`: a full disk is no fault of whoever the bytes come from."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(folder) from error


def disk_full(folder: str | Path) -> TryAgain:
    """Not for ever: others' files go, and another worker may have room."""
    return TryAgain(
        f"the disk of {socket.gethostname()} that holds {folder} is full; make room there, or set TMPDIR to another one", code="disk_full"
    )


def remove_leftovers() -> int:
    """Delete what workers that were killed left in the folder of temporary files; how many folders that were."""
    old = [each for each in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _is_left(each)]
    for each in old:
        shutil.rmtree(each, ignore_errors=True)
    return len(old)


def _is_left(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:  # another worker was faster
        return False
    return found.st_uid == os.geteuid() and found.st_mtime < time.time() - LEFT_BEHIND.total_seconds()
