"""What a worker leases and what it finds leased: a batch that is claimed in several answers is nobody's lost property meanwhile."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from streams.dispatch import CLAIMED_AT_ONCE, PUT_OFF, Dispatcher

MEASURE = SimpleNamespace(name="measure", batch=2 * CLAIMED_AT_ONCE, at_once=1)
PIPELINES: Any = SimpleNamespace(
    settings=SimpleNamespace(runtime=SimpleNamespace(poll=0.5, concurrency=64)), cpu_stages=[], batch_stages={"measure": MEASURE}, limits={}
)


class Ledger:
    """Leases a full answer's worth of batch steps at a time; the second answer takes its time."""

    def __init__(self) -> None:
        self.leased: list[dict[str, Any]] = []
        self.asked, self.slow = asyncio.Event(), asyncio.Event()

    async def claim(self, worker: Any, room: int, limits: Any, *, only: Any = None, without: Any = (), **_: Any) -> list[dict[str, Any]]:
        if only is None:
            return []
        if self.leased:
            self.asked.set()
            await self.slow.wait()
        found = [{"run_id": str(uuid4()), "stage": "measure"} for _ in range(room)]
        self.leased += found
        return found

    async def leases(self, worker: Any, *, known: Any) -> list[dict[str, Any]]:
        return list(self.leased)


class Executor:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.room, self.cpu_room, self.busy, self.draining, self.room_made = 64, 0, set[str](), False, asyncio.Event()
        self.in_hand: list[Any] = []
        self.together: list[int] = []
        self.alone: list[Any] = []
        self.giving_way, self.gathering = SimpleNamespace(others=False, crowded=False), False
        self._held: set[str] = set()

    def batches(self, stage: Any) -> int:
        return 0

    def take_batch(self, rows: list[dict[str, Any]], stage: Any) -> None:
        self.together.append(len(rows))
        self._held |= {row["run_id"] for row in rows}

    def take(self, row: Any) -> None:
        self.alone.append(row)

    def holds(self, row: dict[str, Any]) -> bool:
        return row["run_id"] in self._held


async def test_steps_of_a_batch_that_is_still_being_claimed_are_not_picked_up_one_by_one() -> None:
    ledger: Any = Ledger()
    executor: Any = Executor()
    dispatcher = Dispatcher(PIPELINES, ledger, executor, uuid4())
    claiming = asyncio.create_task(dispatcher._claim())
    await ledger.asked.wait()
    looking = [asyncio.create_task(dispatcher._pick_up()) for _ in range(2)]
    await asyncio.sleep(0.1)
    ledger.slow.set()
    await asyncio.gather(claiming, *looking)
    assert executor.alone == []
    assert executor.together == [2 * CLAIMED_AT_ONCE]


@pytest.mark.looptime
@pytest.mark.parametrize("busy", ["gathering", "crowded"])
async def test_a_batch_waits_beside_others_until_one_thing_at_a_time_is_done_but_not_for_ever(busy: str) -> None:
    ledger, executor = Ledger(), Executor()
    ledger.slow.set()
    executor.giving_way = SimpleNamespace(others=True, crowded=busy == "crowded")
    executor.gathering = busy == "gathering"
    dispatcher, loop = Dispatcher(PIPELINES, cast("Any", ledger), cast("Any", executor), uuid4()), asyncio.get_running_loop()
    began = loop.time()
    while not executor.together:
        await dispatcher._claim()
        await asyncio.sleep(0.5)
    assert loop.time() - began == pytest.approx(PUT_OFF, abs=1)
    executor.giving_way.others = False
    await dispatcher._claim()
    assert executor.together == [2 * CLAIMED_AT_ONCE] * 2


@pytest.mark.looptime
async def test_a_batch_does_not_wait_beside_others_when_nothing_else_of_its_kind_is_under_way() -> None:
    ledger, executor = Ledger(), Executor()
    ledger.slow.set()
    executor.giving_way.others = True
    await Dispatcher(PIPELINES, cast("Any", ledger), cast("Any", executor), uuid4())._claim()
    assert executor.together == [2 * CLAIMED_AT_ONCE]
