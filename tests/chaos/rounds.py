"""A round: load, one kind of fault some times at random moments, then quiet, the drain, and the checker's verdict."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from tests.chaos.checker import check
from tests.chaos.faults import FAULTS, FaultWrong, Scene
from tests.chaos.gather import Gatherer
from tests.chaos.load import Publisher
from tests.chaos.snapshot import Snapshot
from tests.chaos.violation import Harm, Violation

QUIET_BEFORE_CHECK = 1.5
"""Seconds after the drain in which watermarks and outbox rows are flushed (each half second, each second)."""


@dataclass
class Row:
    """What one kind of fault came to."""

    fault: str
    times: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    stall: float = 0.0
    """The longest time from publishing a request to its row in the ledger."""
    quiet: float = 0.0
    """The longest time in which runs were open and nothing moved."""
    drain: float = 0.0
    """The longest time from the end of load and faults to the end of the backlog."""
    runs: int = 0
    violations: list[str] = field(default_factory=list)


class Round:
    """Plays rounds on a scene; remembers which violations were seen before, so that each is counted once."""

    def __init__(
        self, scene: Scene, publisher: Publisher, gatherer: Gatherer, background: "Sequence[asyncio.Task[None]]", *, patience: float = 120
    ) -> None:
        self.scene, self.publisher, self.gatherer, self.patience = scene, publisher, gatherer, patience
        self._background = background
        self.rows: dict[str, Row] = {}
        self.seen: set[Violation] = set()
        self.fresh: list[Violation] = []
        """What the last round brought to light."""
        self._checked = 0

    async def play(self, fault: str, times: int) -> Row:
        """Inject `fault` so many times under load, drain, check; the row of this kind of fault so far."""
        return await self._play(fault, [fault] * times, (0.5, 3.0))

    async def storm(self, blows: Mapping[str, int]) -> Row:
        """All kinds of faults in one round, in an order of the seed's."""
        faults = [fault for fault, times in blows.items() for _ in range(times)]
        self.scene.random.shuffle(faults)
        return await self._play("storm", faults, (0.2, 1.0))

    async def _play(self, name: str, faults: Sequence[str], pause: tuple[float, float]) -> Row:
        row = self.rows.setdefault(name, Row(name))
        for task in self._background:  # without load and watch a round would prove nothing
            assert not task.done(), f"{task} ended: {task.exception()!r}"
        self.scene.watch.quiet = 0.0
        self.publisher.go()
        wrong = await self._inject(faults, pause, row)
        await self.publisher.pause()
        await self._quiet_again()
        began = time.monotonic()
        drained = await self._drain()
        row.drain = max(row.drain, time.monotonic() - began)
        row.quiet = max(row.quiet, self.scene.watch.quiet)
        await self.scene.watch.settle()
        snapshot, found = await self.settled(drained)
        self._judge(row, snapshot, [*found, *wrong])
        return row

    async def _inject(self, faults: Sequence[str], pause: tuple[float, float], row: Row) -> list[Violation]:
        dice: random.Random = self.scene.random
        wrong = []
        await asyncio.sleep(2)  # work begins before the first blow
        for fault in faults:
            await asyncio.sleep(dice.uniform(*pause))
            try:
                await FAULTS[fault](self.scene)
            except FaultWrong as error:
                wrong.append(Violation("I9", Harm.WRONG, str(error)))
            row.times += 1
        return wrong

    async def _quiet_again(self) -> None:
        """All faults off, all workers up."""
        self.scene.town.heal()
        for name in ("ml_engine", "inference", "monitoring"):
            await self.scene.http.delete(f"{getattr(self.scene.town.addresses, name)}/_faults")
        for worker in self.scene.town.workers:
            if not worker.running:
                await worker.start()
                await worker.ready()

    async def _drain(self) -> bool:
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if await self.scene.watch.backlog() == 0 and await self._all_read():
                return True
            await asyncio.sleep(0.1)
        return False

    async def _all_read(self) -> bool:
        """No request that Kafka acknowledged waits for its reader."""
        if not self.publisher.sent:
            return True
        rows = await self.scene.watch.fetch("select topic, partition, next from offsets")
        marks = {(row["topic"], row["partition"]): row["next"] for row in rows or ()}
        return all(marks.get((topic, partition), 0) > offset for topic, partition, offset in self.publisher.sent[-2000:])

    async def settled(self, drained: bool) -> tuple[Snapshot, list[Violation]]:
        """A snapshot that only shows what stays: idle ends of partitions are compared each ten seconds, so a violation is looked at again."""
        until = time.monotonic() + 25
        while True:
            await asyncio.sleep(QUIET_BEFORE_CHECK)
            snapshot = await self.gatherer.snapshot(sent=self.publisher.sent, grace=timedelta(0), drained=drained)
            found = check(snapshot)
            if not set(found) - self.seen or time.monotonic() > until:
                return snapshot, found

    def _judge(self, row: Row, snapshot: Snapshot, broken: list[Violation]) -> None:
        self.fresh = found = [each for each in broken if each not in self.seen]
        self.seen |= set(found)
        row.lost += sum(each.harm is Harm.LOST for each in found)
        row.doubled += sum(each.harm is Harm.DOUBLED for each in found)
        row.wrong += sum(each.harm is Harm.WRONG for each in found)
        row.violations += [str(each) for each in found]
        row.runs += len(snapshot.runs) - self._checked
        self._checked = len(snapshot.runs)
        row.stall = max(row.stall, self._longest_stall(snapshot))

    def _longest_stall(self, snapshot: Snapshot) -> float:
        """From publishing to the inbox, over the requests that were published since the last look."""
        fresh, self.publisher.published_at = self.publisher.published_at, {}
        seen = {(row["topic"], row["partition"], row["offset"]): row["at"].timestamp() for row in snapshot.rows("inbox")}
        return max((seen[place] - at for place, at in fresh.items() if place in seen), default=0.0)
