"""The stack's home folder: one stack at a time, secrets and ports that last, logs."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from streams.local.errors import LocalError

PATIENCE = 15.0
"""Seconds that the servers of a killed supervisor may take to end before a new start gives up."""


class Secrets(BaseModel):
    """Made at the first start, kept in `secrets.json` (0600)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    postgres: str = Field(default_factory=lambda: secrets.token_hex(16), repr=False)
    """Password of the superuser, which only the supervisor uses."""
    tidemill: str = Field(default_factory=lambda: secrets.token_hex(16), repr=False)
    access_key: str = Field(default_factory=lambda: secrets.token_hex(10), repr=False)
    secret_key: str = Field(default_factory=lambda: secrets.token_hex(20), repr=False)


class Home:
    """`$TIDEMILL_HOME` in the hands of one supervisor; `say` gets the lines meant for whoever started it."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path.absolute()
        self.say = say
        self.lock_fd: int | None = None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def folder(self, name: str) -> Path:
        """A folder of one server, closed to other users."""
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def take(self) -> None:
        """Lock the folder. Every server holds the lock too, so it stays taken until the last of a killed stack has ended."""
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)  # 0711: an unprivileged PostgreSQL must pass through
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await self._lock(fd)
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self.lock_fd = fd
        self.logs.mkdir(mode=0o700, exist_ok=True)

    async def _lock(self, fd: int) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not _try_lock(fd):
            owner = int(os.pread(fd, 20, 0) or b"0")
            if alive(owner) or asyncio.get_running_loop().time() > deadline:
                raise LocalError(f"{self.path} is in use by another stack (pid {owner}); stop that one, or set TIDEMILL_HOME to another folder.")
            await asyncio.sleep(0.1)  # its supervisor was killed; the servers are just ending

    def release(self) -> None:
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None

    def secrets(self) -> Secrets:
        file = self.path / "secrets.json"
        if not file.exists():
            write_private(file, Secrets().model_dump_json(indent=2))
        return Secrets.model_validate_json(file.read_text())

    def remembered(self, name: str) -> dict[str, int]:
        """Numbers kept for the next start; a damaged file only costs the memory."""
        try:
            return {key: int(value) for key, value in json.loads((self.path / name).read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def write_private(file: Path, text: str) -> None:
    """Whole or not at all, readable by us alone."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
    draft.replace(file)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
