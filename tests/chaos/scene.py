"""What a fault may touch, and what is counted while it does."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from tests.chaos.proxy import Proxy
from tests.chaos.town import Town
from tests.chaos.watch import Held, Watch
from tests.chaos.workers import Worker

PATIENCE = 180.0
"""Seconds that a worker may take to be at work, while servers may be away too."""


class FaultWrong(Exception):
    """A process did not behave under a fault as it promised: counts as a violation."""


@dataclass
class Scene:
    """What a fault may touch."""

    town: Town
    watch: Watch
    random: random.Random
    http: httpx.AsyncClient
    alone: bool = True
    """Whether no fault of another kind is injected meanwhile: recovery is told apart by it."""
    kills: int = 0
    """SIGKILLs that workers died of."""
    hit: Counter[str] = field(default_factory=Counter)
    """Stage -> how many of its steps were in the hands of a worker that was killed."""

    async def one(self) -> Worker:
        """A worker that is at work, while another is too: where nobody is left to go on, nothing is to be seen of going on."""
        enough = min(2, len(self.town.workers))
        async with asyncio.timeout(PATIENCE):
            while len(ready := [worker for worker in self.town.workers if worker.is_ready]) < enough:
                for worker in self.town.workers:
                    if worker.gave_up:
                        await worker.start()
                await asyncio.sleep(0.05)
        return self.random.choice(ready)

    async def again(self, worker: Worker) -> None:
        """Start it again, and go on when it is at work."""
        await worker.start()
        await worker.ready(PATIENCE)

    async def kill(self, worker: Worker, what: str) -> float:
        """SIGKILL; `what` is measured from then on. Also counts one that died of its own hand just before."""
        pid, since = worker.pid, time.monotonic()
        await worker.kill()
        held = await self.watch.held_by(pid)
        self.kills += 1
        self.hit.update(stage for _, stage, _ in held)
        self.time(what, held, since=since)
        return since

    def time(self, what: str, held: list[Held], *, since: float) -> None:
        """Measure how long these steps wait for other hands."""
        self.watch.time(self.named(what), held, since=since)

    def named(self, what: str) -> str:
        return what if self.alone else f"{what} (amid other faults)"

    def door(self, name: str) -> Proxy:
        """What stands between some worker and the server."""
        return self.random.choice(self.town.doors)[name]


Fault = Callable[[Scene], Awaitable[None]]
