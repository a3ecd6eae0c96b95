"""Who publishes a row of the outbox: the worker that has it in hand as long as it lives, else whoever sweeps first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from streams.ledger.connection import Connection
from streams.outbox import FORGOTTEN, Outbox
from streams.records import STATE_TOPIC
from tests.travel import Road

LEFT = 7.5
"""Seconds that a lease has left at least while its worker beats."""


class Left:
    """An outbox in which rows lie that nobody published."""

    def __init__(self, dsn: str) -> None:
        self.dsn, self.road, self.me = dsn, Road(), uuid4()
        self.mine, sweeping = (Connection(dsn, worker=self.me) for _ in range(2))
        self.connections = [self.mine, sweeping]
        self.outbox = Outbox(self.road, self.mine, sweeping, worker=self.me, unheard=LEFT)

    async def row(self, worker: UUID | None, *, age: float = 10, run: UUID | None = None) -> dict[str, Any]:
        """A row that a worker put there; `run`: whose state is to be told."""
        theirs = Connection(self.dsn, worker=worker)
        emit = "select emit($1, 'training.requested', 'acme', $2, null, 1, now(), null, '{}', $3)"
        row: dict[str, Any] = await theirs.value(emit, uuid4(), run, run is not None)
        await theirs.fetch("update outbox set created_at = clock_timestamp() - make_interval(secs => $2) where id = $1", row["id"], age)
        await theirs.close()
        return row

    async def gone(self, row: dict[str, Any]) -> None:
        """Until the row is taken away."""
        async with asyncio.timeout(20):
            while await self.mine.fetch("select 1 from outbox where id = $1", row["id"]):  # noqa: ASYNC110  # another task's statement
                await asyncio.sleep(0.01)

    async def worker(self, lease: float) -> UUID:
        """Another worker whose lease runs for so many seconds more."""
        worker = uuid4()
        await self.mine.fetch("select join_slot($1, 1, 'test', 1, $2)", worker, lease)
        return worker


class SlowStates(Road):
    """Takes a run's state only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def send(self, topic: str, *args: Any, **more: Any) -> "asyncio.Future[Any]":
        if topic == STATE_TOPIC:
            self.asked.set()
            await self.let.wait()
        return await super().send(topic, *args, **more)


class Refusing(Road):
    """Will not have one event, now or ever: at once, or when it answers."""

    def __init__(self, event: str, *, later: bool) -> None:
        super().__init__()
        self.event, self.later = event, later

    async def send(self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None) -> "asyncio.Future[Any]":
        if ("ce_id", self.event.encode()) not in (headers or []):
            return await super().send(topic, value, key, headers=headers)
        if not self.later:
            raise MessageSizeTooLargeError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(MessageSizeTooLargeError())
        return answer


@pytest.fixture
async def left(ledger_dsn: str) -> AsyncIterator[Left]:
    async with AsyncExitStack() as stack:
        left = Left(ledger_dsn)
        for each in left.connections:
            stack.push_async_callback(each.close)
        yield left


async def test_what_a_worker_that_lives_has_in_hand_is_left_to_it_and_not_sent_twice(left: Left) -> None:
    await left.row(await left.worker(lease=12))
    assert await left.outbox.sweep() == 0


async def test_a_worker_that_is_not_heard_of_is_stood_in_for_before_its_lease_ends(left: Left) -> None:
    await left.row(await left.worker(lease=LEFT - 1))
    assert await left.outbox.sweep() == 1
    assert len(left.road.log["training.requested"]) == 1


async def test_what_nobody_has_in_hand_is_published_at_once(left: Left) -> None:
    await left.row(None, age=0)
    assert await left.outbox.sweep() == 1


async def test_a_row_that_is_forgotten_by_a_worker_that_lives_is_published_all_the_same(left: Left) -> None:
    await left.row(await left.worker(lease=12), age=FORGOTTEN + 1)
    assert await left.outbox.sweep() == 1


async def test_a_worker_finds_what_it_lost_itself_and_waits_for_what_it_has_in_hand(left: Left) -> None:
    await left.row(left.me)
    left.outbox.publish([await left.row(left.me)])
    await left.row(left.me)
    assert await left.outbox.sweep() == 1
    assert await left.outbox.sweep() == 0


async def test_what_is_published_while_a_state_is_told_is_taken_away_too(left: Left) -> None:
    road, run = SlowStates(), uuid4()
    outbox = Outbox(road, *left.connections, worker=left.me, unheard=LEFT)
    sql = "insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, request, request_id, causes, version, requested_at) "
    await left.mine.fetch(sql + "values ($1, 'acme', 'training', '1', 'running', '{}', $1, 1, 1, now())", run)
    parts = [asyncio.create_task(part) for part in (outbox.run(), outbox.run_states(), outbox.run_removal())]
    outbox.publish([await left.row(left.me, run=run)])
    await road.asked.wait()
    before, meanwhile = await left.row(left.me), await left.row(left.me)
    outbox.publish([before])
    await left.gone(before)
    outbox.publish([meanwhile])
    while len(road.log["training.requested"]) < 3:  # noqa: ASYNC110  # another task publishes it
        await asyncio.sleep(0.001)
    road.let.set()
    await left.gone(meanwhile)
    await outbox.stop()
    await asyncio.wait_for(asyncio.gather(*parts), 20)


@pytest.mark.parametrize("later", [False, True])
async def test_what_kafka_refuses_for_good_is_set_aside_and_the_rest_goes_on(left: Left, later: bool) -> None:
    _, bad, _ = [await left.row(None) for _ in range(3)]
    road = Refusing(bad["event_id"], later=later)
    outbox = Outbox(road, *left.connections, worker=left.me, unheard=LEFT)
    async with asyncio.timeout(10):  # a statement that waits for its own lock would take 15
        assert await outbox.sweep() == 2
    assert len(road.log["training.requested"]) == 2
    assert await left.mine.fetch("select id from outbox") == []
    assert [row["id"] for row in await left.mine.fetch("select id from unpublishable")] == [bad["id"]]
