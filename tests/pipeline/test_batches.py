"""A tick for all tenants: one run each, measured many at a time, committed one by one."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from schemas.quality import DqDecided, DqEvaluated
from streams.stage import Pipeline, stage
from tests.pipeline.toy import QUALITY, RETRY, Neighbours, measure
from tests.travel import Travel, travelling


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (QUALITY,), Neighbours())) as travel:
        yield travel


async def add(travel: Travel, *tenants: str, status: str = "active") -> None:
    connection = await asyncpg.connect(travel.dsn)
    await connection.executemany("insert into tenants (tenant_id, status) values ($1, $2)", [(tenant, status) for tenant in tenants])
    await connection.executemany("insert into tenant_heads (tenant_id) values ($1)", [(tenant,) for tenant in tenants])
    await connection.close()


async def test_a_tick_for_all_makes_one_run_for_each_active_tenant(travel: Travel) -> None:
    await add(travel, *(f"t-{n}" for n in range(450)))
    await add(travel, "asleep", status="suspended")
    record = travel.road.put("dq.tick", b"{}")
    runs = await travel.over(450, within=30)
    assert {run["state"] for run in runs} == {"succeeded"}
    assert "asleep" not in {run["tenant_id"] for run in runs}
    assert max(len(batch) for batch in travel.services.batches) == 3
    await travel.read(record)
    await asyncio.sleep(0.3)
    assert len(await travel.runs()) == 450


async def test_a_tenant_that_spoils_a_batch_fails_alone(travel: Travel) -> None:
    await add(travel, "acme", "globex", "poison")
    travel.road.put("dq.tick", b"{}")
    runs = await travel.until(lambda runs: sum(run["state"] == "succeeded" for run in runs) == 2)
    assert {run["tenant_id"] for run in runs if run["state"] == "succeeded"} == {"acme", "globex"}
    [step] = await travel.see("select state, code, attempt from steps where tenant_id = 'poison' and attempt = 2")
    assert (step["state"], step["code"]) == ("ready", "stage_crashed")


async def test_ticks_that_arrive_one_by_one_are_measured_together(travel: Travel) -> None:
    tenants = [f"t-{n}" for n in range(60)]
    await add(travel, *tenants)
    for tenant in tenants:
        travel.road.put("dq.tick", b'{"tenant_id": "%s"}' % tenant.encode())
    await travel.over(60, within=30)
    assert sum(len(batch) for batch in travel.services.batches) == 60
    assert len(travel.services.batches) <= 30  # of three at most; the first ones find nobody else yet


@stage(batch=3, retry=RETRY)
async def tell(events: list[DqEvaluated], use: Neighbours) -> list[DqDecided]:
    """A second stage for many."""
    use.batches.append(["told", *(event.key for event in events)])
    return [event.then(DqDecided, verdict=event.verdict) for event in events]


async def test_what_one_batch_did_the_next_goes_on_with_together(ledger_dsn: str) -> None:
    pipeline = Pipeline("quality", (measure, tell), version="1")
    async with travelling(Travel(ledger_dsn, (pipeline,), Neighbours())) as travel:
        await add(travel, *(f"t-{n}" for n in range(30)))
        travel.road.put("dq.tick", b"{}")
        await travel.over(30)
        batches = travel.services.batches
        measured, told = [each for each in batches if each[0] != "told"], [each[1:] for each in batches if each[0] == "told"]
        assert sorted(map(sorted, told)) == sorted(map(sorted, measured))


async def test_a_tick_for_one_tenant_measures_that_tenant(travel: Travel) -> None:
    await add(travel, "acme", "globex")
    travel.road.put("dq.tick", b'{"tenant_id": "acme"}')
    [run] = await travel.over()
    assert run["tenant_id"] == "acme"
    assert travel.road.events("dq.evaluated")[0]["verdict"] == "pass"
