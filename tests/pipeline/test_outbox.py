"""Who publishes a row of the outbox: the worker that has it in hand as long as it lives, else whoever sweeps first."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from streams.ledger.connection import Connection
from streams.outbox import FORGOTTEN, Outbox
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

    async def row(self, worker: UUID | None, *, age: float = 10) -> dict[str, Any]:
        """A row that a worker put there."""
        theirs = Connection(self.dsn, worker=worker)
        emit = "select emit($1, 'training.requested', 'acme', null, null, 1, now(), null, '{}', false)"
        row: dict[str, Any] = await theirs.value(emit, uuid4())
        await theirs.fetch("update outbox set created_at = clock_timestamp() - make_interval(secs => $2) where id = $1", row["id"], age)
        await theirs.close()
        return row

    async def worker(self, lease: float) -> UUID:
        """Another worker whose lease runs for so many seconds more."""
        worker = uuid4()
        await self.mine.fetch("select join_slot($1, 1, 'test', 1, $2)", worker, lease)
        return worker


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
