"""Our own processes in the local stack: neighbours, the view and the worker, which are started again when they end."""

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

from streams.local.home import Home
from streams.local.probe import answers, until
from streams.local.process import ServerProcess

RESTARTS = 3
WINDOW = 60.0
SHORT_PAUSE = 0.5


class ChildProcess(ServerProcess):
    """A Python module of ours, started once those in `after` are ready; ready itself when `ready_url` answers, or at once."""

    stop_timeout = 8

    def __init__(
        self,
        home: Home,
        what: str,
        module: Sequence[str],
        *,
        environment: Mapping[str, str],
        after: Sequence[ServerProcess] = (),
        ready_url: str | None = None,
    ) -> None:
        super().__init__(home, what)
        self.module, self.environment, self.after, self.ready_url = module, environment, after, ready_url
        self._restarts: deque[float] = deque(maxlen=RESTARTS)

    async def prepare(self) -> None:
        for other in self.after:
            await other.ready.wait()

    def argv(self) -> list[str]:
        return [sys.executable, "-m", *self.module]

    def env(self) -> Mapping[str, str]:
        return os.environ | self.environment | {"PYTHONUNBUFFERED": "1"}

    def cwd(self) -> str:
        return os.getcwd()  # where its `tidemill.toml` is looked for

    async def until_ready(self) -> None:
        if (url := self.ready_url) is not None:
            await until(lambda: answers(url), every=0.05)

    def announce(self, seconds: float) -> None:
        """Without a probe we know no more than that it was started."""
        if self.ready_url is None:
            self.home.say(f"{self.what} started")
        else:
            super().announce(seconds)

    async def on_death(self) -> None:
        """Say why, and start it again; a process that keeps dying gets only a few tries a minute."""
        pause = pause_before_restart(self._restarts, time.monotonic())
        self.home.say(f"{self.obituary()}\n{self.what} is started again in {pause:.1f} s")
        await self.sleep(pause)
        if not self.should_stop:
            self._restarts.append(time.monotonic())
            await self.launch()


def pause_before_restart(restarts: Sequence[float], now: float) -> float:
    """Seconds until the next start, so that no more than `RESTARTS` fall into one `WINDOW`."""
    if len(restarts) < RESTARTS:
        return SHORT_PAUSE
    return max(SHORT_PAUSE, restarts[0] + WINDOW - now)


class Errand(ChildProcess):
    """A process that does one thing and ends; ready when it ended well."""

    def announce(self, seconds: float) -> None:
        self.home.say(f"{self.what} done in {seconds:.1f} s")

    async def _ready_or_dead(self) -> None:
        assert self.process is not None
        if await self.process.wait():
            raise self.obituary()

    async def on_death(self) -> None:
        """It has done its work; nothing is left to watch."""
        await self.wait_until_stopped()
