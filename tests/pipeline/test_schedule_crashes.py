"""Workers that die while slots fire: none is missing, none fires twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from streams import faultpoints
from streams.stage import GiveUp
from tests.pipeline.test_batches import add
from tests.pipeline.test_schedules import schedule
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling


class Killed(Exception):
    """Stands for the end of the process: whatever the transaction held is undone."""


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(5000)]})
    async with travelling(Travel(ledger_dsn, (TOY,), use)) as travel:
        yield travel


@pytest.fixture
def killing() -> Iterator[None]:
    chance = random.Random(7)

    def perhaps() -> None:
        if chance.random() < 0.3:
            raise Killed

    faultpoints.arm("slot.firing", perhaps)
    yield
    faultpoints.disarm()


@pytest.mark.usefixtures("killing")
async def test_random_deaths_at_firing_give_no_missing_and_no_second_slot(travel: Travel, ledger_dsn: str) -> None:
    tenants = {f"t-{n}" for n in range(60)}
    await add(travel, *sorted(tenants))
    await schedule(travel, cron="*/10 * * * *", missed="all", catch_up=timedelta(days=1))
    other = Travel(ledger_dsn, (TOY,), travel.services, road=travel.road)
    async with travelling(other):
        for _ in range(3):
            travel.clock.ahead += timedelta(minutes=10)
            other.clock.ahead = travel.clock.ahead
            await asyncio.sleep(0.3)
        # the schedule is moved on in the transaction that makes its slots
        await travel.see("select 1 from schedules where next_due > $1", travel.clock.now(), within=30)
        await travel.see("select 1 where not exists (select 1 from slots where state = 'due')", within=30)
        [row] = await travel.rows("select count(distinct due) as dues from slots")
        assert row["dues"] >= 4
    slots = await travel.rows("select tenant_id, due, state from slots")
    assert {slot["state"] for slot in slots} == {"fired"}
    assert {slot["tenant_id"] for slot in slots} == tenants
    assert len(slots) == len(tenants) * row["dues"]
    [made] = await travel.rows("select count(*) as causes, count(distinct event_id) as events from causes")
    assert made["causes"] == made["events"] == len(slots)
