"""One seed's world: workers, broker, neighbours and clocks, the scheduler that breaks them, and the long wait until all is quiet again."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import structlog

from streams.pipelines import Pipelines
from streams.settings import LedgerSettings, MLEngineSettings, RuntimeSettings, Settings
from streams.stage import Pipeline
from tests.simulation.broker import Broker
from tests.simulation.choices import Choices
from tests.simulation.life import LIFE, Life
from tests.simulation.links import Lines
from tests.simulation.loop import VirtualLoop
from tests.simulation.neighbours import Engine, Neighbour, Town
from tests.simulation.pipeline import TOY
from tests.simulation.weather import Weather
from tests.simulation.worker import Worker

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = 12.0
PARTITIONS = 3
WIDE = 5
"""One seed in so many has several statements under way at once: PostgreSQL decides their order then, and no seed repeats it exactly."""


class SimClock:
    """The ledger's time: the world's, and as far ahead as it has leapt."""

    def __init__(self, world: "World") -> None:
        self._world, self.ahead = world, timedelta()

    def now(self) -> datetime:
        return self._world.server_time() + self.ahead


class World:
    """Everything of one seed."""

    commands: tuple[str, ...] = ("check", "train", "index", "deploy", "warm")
    """Stages that send a command, named alike."""

    def __init__(self, seed: int, loop: VirtualLoop, lines: Lines, dsn: str, *, harsh: Mapping[str, float] | None = None) -> None:
        self.seed, self.loop, self.lines, self.dsn = seed, loop, lines, dsn
        self.choices = choices = Choices(seed)
        loop.begin()
        self.began = loop.time()
        self.weather = replace(Weather.draw(choices), **harsh or {})
        self.eager = choices.number(0, 2) > 0
        self.slots = choices.number(2, 3)
        lines.turns.choices, lines.turns.width = choices, 8 if seed % WIDE == 0 else 1
        random.seed(seed)  # the runtime's jitter
        self.lease = LEASE
        self.settings = self._settings()
        self.pipelines = Pipelines(self.pipeline(), self.settings)
        self.clock = SimClock(self)
        self.broker = Broker(self, self.pipelines.topics, PARTITIONS)
        self.tenants = [f"t{seed}-{n}" for n in range(choices.number(1, 4))]
        self.engine, self.service = self.neighbours()
        self.workers: dict[int, Worker] = {}
        self.admin: Any = None
        self._admins_turn = asyncio.Lock()
        self.points: Counter[str] = Counter()
        self.crashes = 0
        self.violations: list[str] = []
        self.refused: set[UUID] = set()
        self.read: set[tuple[str, int, int]] = set()
        self.timers = 0
        self.over = False
        self._favourites = choices.number(0, 1) * [choices.number(0, 10**6), choices.number(0, 10**6)]
        self._tasks: set[asyncio.Task[Any]] = set()

    def pipeline(self) -> tuple[Pipeline, ...]:
        return (TOY,)

    def neighbours(self) -> tuple[Engine, Neighbour]:
        return Engine(self), Neighbour(self, "service")

    def services(self, life: Life) -> Any:
        return Town(self.engine, self.service)

    def _settings(self) -> Settings:
        choices = self.choices
        return Settings(
            ledger=LedgerSettings.model_validate({"dsn": self.dsn}),
            ml_engine=MLEngineSettings(max_jobs=choices.pick([None, None, 1, 2]), poll_every=timedelta(minutes=20), deadline=timedelta(hours=3)),
            runtime=RuntimeSettings(
                eager=self.eager, poll=4.0, unknown_tenants="create", concurrency=choices.pick([2, 4, 64]), lease=LEASE, sweep=choices.pick([4, 10])
            ),
        )

    # time

    def server_time(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.time() - self.began)

    def milliseconds(self) -> int:
        return int(self.server_time().timestamp() * 1000)

    def later(self, delay: float, action: Callable[[], Any]) -> None:
        """Something that happens by itself after a while."""
        self.timers += 1

        def happen() -> None:
            self.timers -= 1
            action()

        self.loop.call_later(delay, happen)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """A task of the world, not of any worker."""
        task = self.loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # what is noted

    def say(self, what: str) -> None:
        self.choices.note(self.loop.time() - self.began, what)

    def violate(self, invariant: str, sentence: str) -> None:
        self.say(f"VIOLATION {invariant}: {sentence}")
        if len(self.violations) < 50:
            self.violations.append(f"{invariant}: {sentence}")

    # faults

    def passed(self, name: str) -> None:
        if not self.choices.calm:
            self.points[name] += 1

    def crashes_at(self, name: str) -> bool:
        weight = 10 if hash_of(name) % 7 in {f % 7 for f in self._favourites} and self.points[name] % 3 == 0 else 1
        if self.choices.chance(min(self.weather.crash * weight / 10, 0.3)):
            self.crashes += 1
            return True
        return False

    def cuts(self, life: Life, where: str) -> bool:
        if self.database_is_down(life):
            return True
        if self.choices.chance(self.weather.cut / 10):
            self.say(f"{life.name} loses its line {where}")
            return True
        return False

    def database_is_down(self, life: Life) -> bool:
        return not self.choices.calm and self.loop.time() < life.down_until

    def other_tenant(self, tenant: str) -> str:
        return self.choices.pick([each for each in self.tenants if each != tenant] or ["stranger"])

    # workers

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.ready and not worker.life.dead and not worker.life.ending]

    def start_worker(self, slot: int) -> None:
        life = Life(self, slot, self.choices.uuid())
        context = Context()
        context.run(LIFE.set, life)
        worker = context.run(Worker, self, life)
        self.workers[slot] = worker
        self.say(f"{life.name} starts")
        life.run(worker.start())
        self.spawn(self._guard(worker))

    async def _guard(self, worker: Worker) -> None:
        """A supervisor: starts the next life of a slot some time after the last one ended."""
        await worker.life.gone.wait()
        await asyncio.sleep(self.choices.between(0.2, 20 if self.choices.chance(0.3) else 3))
        if not self.over:
            self.start_worker(worker.life.slot)

    async def stop_worker(self, worker: Worker) -> None:
        """SIGTERM, and what is left after the grace is killed."""
        self.say(f"{worker.life.name} is asked to stop")
        task = worker.life.run(worker.stop())
        await asyncio.wait({task}, timeout=40)
        if task.done() and not task.cancelled() and (error := task.exception()) and not worker.life.dead:
            self.violate("worker", f"{worker.life.name} could not stop: {error!r}")
        worker.life.die("is stopped")

    async def freeze_worker(self, worker: Worker) -> None:
        life, seconds = worker.life, self.choices.pick([3.0, 14.0, 25.0])
        self.say(f"{life.name} freezes for {seconds:.0f} s")
        life.freeze()
        if seconds > 20:
            self.broker.rebalance()
        await asyncio.sleep(seconds)
        life.thaw()
        self.say(f"{life.name} goes on")

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.admin is not None:
            self.lines.give_back(self.dsn, self.admin)

    async def execute(self, statements: str) -> None:
        """Several statements of the scheduler's own."""
        with self.loop.awaiting():
            await self.admin.execute(statements)

    async def sql(self, statement: str, *args: Any) -> list[Any]:
        """A statement of the scheduler's own."""
        async with self._admins_turn:
            await self.lines.turns.take()
            try:
                with self.loop.awaiting(certain=False):
                    rows: list[Any] = await self.admin.fetch(statement, *args)
            finally:
                self.lines.turns.give_back()
        return rows


@cache
def hash_of(name: str) -> int:
    """The same in every process, unlike `hash`."""
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(name))


class Errors:
    """A structlog processor: exceptions that the runtime logs are noted in the world they happened in; all else is dropped."""

    EXPECTED = ("stage crashed", "watcher crashed")

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        life = LIFE.get()
        if life is not None and not life.dead:
            said = {key: value for key, value in event.items() if key not in ("event", "exc_info")}
            life.world.say(f"{life.name} says: {event['event']} {said if said else ''}")
            if event.get("exc_info") and event["event"] not in self.EXPECTED:
                life.world.violate("worker", f"the runtime logged an exception: {event['event']}: {sys.exc_info()[1]!r}")
        raise structlog.DropEvent
