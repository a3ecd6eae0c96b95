"""A round: load and schedules, faults at random moments, in lanes side by side, then quiet, the drain, and the checker's verdict."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from tests.chaos.checker import check
from tests.chaos.faults import FAULTS
from tests.chaos.gather import Gatherer
from tests.chaos.load import Publisher
from tests.chaos.plan import Lane
from tests.chaos.scene import PATIENCE, FaultWrong, Scene
from tests.chaos.schedules import Schedules
from tests.chaos.snapshot import Snapshot
from tests.chaos.violation import Harm, Violation

QUIET_BEFORE_CHECK = 1.5
"""Seconds after the drain in which watermarks and outbox rows are flushed (each half second, each second)."""
LOOKED_AGAIN = 60.0
"""Seconds for which a violation is looked at again: a gap whose reader was killed is another worker's after 20, idle ends are compared each ten."""


@dataclass
class Row:
    """What one kind of fault came to: what was seen in the rounds that it had a part in."""

    fault: str
    times: int = 0
    rounds: int = 0
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

    def add(self, other: "Row") -> None:
        """What a round brought."""
        self.rounds += 1
        for name in ("lost", "doubled", "wrong", "runs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("stall", "quiet", "drain"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.violations += other.violations


class Round:
    """Plays rounds on a scene; remembers which violations were seen before, so that each is counted once."""

    def __init__(
        self, scene: Scene, publisher: Publisher, schedules: Schedules, gatherer: Gatherer, background: "Sequence[asyncio.Task[None]]", *,
        patience: float = 120,
    ) -> None:  # fmt: skip
        self.scene, self.publisher, self.schedules, self.gatherer, self.patience = scene, publisher, schedules, gatherer, patience
        self._background = background
        self.rows: dict[str, Row] = {}
        """By fault."""
        self.total = Row("all")
        self.seen: set[Violation] = set()
        self.fresh: list[Violation] = []
        """What the last round brought to light."""
        self._checked = 0

    async def play(self, lanes: Sequence[Lane], seconds: float, injected: Counter[str]) -> Row:
        """For so long, faults in every lane, one after another; then drain and check."""
        self.scene.alone = len(lanes) == 1
        return await self._play(lanes, time.monotonic() + seconds, injected)

    async def storm(self, blows: Mapping[str, int]) -> Row:
        """So many faults of each kind in one round, in an order of the seed's."""
        faults = [fault for fault, times in blows.items() for _ in range(times)]
        self.scene.random.shuffle(faults)
        self.scene.alone = False
        return await self._play([(iter(faults), (0.2, 1.0))], float("inf"), Counter())

    async def _play(self, lanes: Sequence[Lane], until: float, injected: Counter[str]) -> Row:
        for task in self._background:  # without load and watch a round would prove nothing
            assert not task.done(), f"{task} ended: {task.exception()!r}"
        self.scene.watch.quiet = 0.0
        self.publisher.go()
        await self.schedules.go()
        await asyncio.sleep(2)  # work begins before the first blow
        row, before, wrong = Row("round"), injected.copy(), []
        for found in await asyncio.gather(*(self._inject(lane, until, injected) for lane in lanes)):
            wrong += found
        await self.publisher.pause()
        await self._quiet_again()
        await self.schedules.pause()
        began = time.monotonic()
        drained = await self._drain()
        row.drain, row.quiet = time.monotonic() - began, self.scene.watch.quiet
        await self.scene.watch.settle()
        snapshot, found = await self.settled(drained)
        self._judge(row, snapshot, [*found, *wrong])
        self._share(row, injected - before)
        return row

    async def _inject(self, lane: Lane, until: float, injected: Counter[str]) -> list[Violation]:
        dice: random.Random = self.scene.random
        faults, pause = lane
        wrong = []
        for fault in faults:
            injected[fault] += 1
            await asyncio.sleep(dice.uniform(*pause))
            try:
                await FAULTS[fault](self.scene)
            except (FaultWrong, TimeoutError) as error:
                wrong.append(Violation("I9", Harm.WRONG, f"{fault}: {error!r}"))
            if time.monotonic() > until:
                break
        return wrong

    def _share(self, row: Row, injected: Counter[str]) -> None:
        """A violation counts for every fault of its round: which one it was cannot be told from outside."""
        row.times = injected.total()
        for fault, times in injected.items():
            mine = self.rows.setdefault(fault, Row(fault))
            mine.times += times
            mine.add(row)
        self.total.times += row.times
        self.total.add(row)

    async def _quiet_again(self) -> None:
        """All faults off, all workers up."""
        self.scene.town.heal()
        for name in ("ml_engine", "inference", "monitoring"):
            await self.scene.http.delete(f"{getattr(self.scene.town.addresses, name)}/_faults")
        for worker in self.scene.town.workers:
            if not worker.running:
                await worker.start()
            await worker.ready(PATIENCE)

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
        """A snapshot that only shows what stays."""
        until = time.monotonic() + LOOKED_AGAIN
        while True:
            await asyncio.sleep(QUIET_BEFORE_CHECK)
            snapshot = await self.gatherer.snapshot(sent=self.publisher.sent, grace=timedelta(0), drained=drained)
            found = check(snapshot)
            if not set(found) - self.seen or time.monotonic() > until:
                return snapshot, found

    def _judge(self, row: Row, snapshot: Snapshot, broken: list[Violation]) -> None:
        self.fresh = found = [each for each in broken if each not in self.seen]
        self.seen |= set(found)
        row.lost = sum(each.harm is Harm.LOST for each in found)
        row.doubled = sum(each.harm is Harm.DOUBLED for each in found)
        row.wrong = sum(each.harm is Harm.WRONG for each in found)
        row.violations = [str(each) for each in found]
        row.runs = len(snapshot.runs) - self._checked
        self._checked = len(snapshot.runs)
        row.stall = self._longest_stall(snapshot)

    def _longest_stall(self, snapshot: Snapshot) -> float:
        """From publishing to the inbox, over the requests that were published since the last look."""
        fresh, self.publisher.published_at = self.publisher.published_at, {}
        seen = {(row["topic"], row["partition"], row["offset"]): row["at"].timestamp() for row in snapshot.rows("inbox")}
        return max((seen[place] - at for place, at in fresh.items() if place in seen), default=0.0)
