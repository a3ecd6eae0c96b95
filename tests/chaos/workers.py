"""Worker processes that a test may kill, stop, continue and start again; each dies with the test that started it."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.local import spawn

ROOT = Path(__file__).parents[2]
READY = re.compile(rb"worker ready")
_OWN = ("TIDEMILL_", "REFERENCE_")


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Our environment without anybody's settings, and with the given ones."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OWN)}
    return {**kept, "PYTHONUNBUFFERED": "1", **own}


@dataclass(slots=True)
class Worker:
    """One place for a worker: its process comes and goes, its log stays."""

    name: str
    home: Path
    environment: Mapping[str, str]
    module: tuple[str, ...] = ("streams.cli",)
    """What is run in place of `tidemill`."""
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    lives: int = 0
    killed: bool = False
    """Whether this life was ended by `kill`."""
    _read: int = field(default=0)

    @property
    def log(self) -> Path:
        return self.home / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def gave_up(self) -> bool:
        """Whether it ended without being told to, as one does that lost its slot; a supervisor would start it again."""
        return self.process is not None and bool(self.process.returncode) and not self.killed

    @property
    def is_ready(self) -> bool:
        """Whether this life is at work."""
        return self.running and READY.search(self.said()) is not None

    async def start(self, crash_at: str | None = None, *, flags: tuple[str, ...] = ()) -> None:
        """A new life; with `crash_at` it ends at that fault point."""
        assert not self.running, f"{self.name} is alive"
        flags = (*flags, "--crash-at", crash_at) if crash_at else flags
        self._read = self.log.stat().st_size if self.log.exists() else 0
        environment = clean_environment(self.environment)
        command = [sys.executable, "-m", *self.module, "worker", *flags]
        self.process = await spawn.spawn(command, self.log, life=spawn.Life(), env=environment, cwd=str(ROOT))
        self.started_at, self.lives, self.killed = time.monotonic(), self.lives + 1, False

    async def ready(self, patience: float = 60) -> None:
        """Return once this life says that it is ready, or has ended."""
        async with asyncio.timeout(patience):
            while self.running and not self.is_ready:  # noqa: ASYNC110  # another process sets no event of ours
                await asyncio.sleep(0.05)

    def said(self) -> bytes:
        """What this life has logged."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            return file.read()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.running:
            self.process.send_signal(number)

    async def ended(self, patience: float = 60) -> int:
        """The exit status (negative: the signal) once it has ended."""
        assert self.process is not None
        status = await asyncio.wait_for(self.process.wait(), patience)
        spawn.sweep(self.process.pid)
        return status

    async def kill(self) -> None:
        """SIGKILL, also to a stopped one; returns when it is gone."""
        self.killed = True
        if self.running:
            self.send(signal.SIGKILL)
            await self.ended()
