"""A tick for all tenants: one run each, measured many at a time, committed one by one."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from schemas.quality import DqDecided, DqEvaluated, DqTick
from streams.stage import Pipeline, stage
from tests.pipeline.toy import QUALITY, RETRY, Neighbours, measure, validate
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


@stage(batch=400, retry=RETRY)
async def measure_all(events: list[DqTick], use: Neighbours) -> list[DqEvaluated]:
    """As many as there are."""
    use.batches.append([event.key for event in events])
    return [event.then(DqEvaluated, verdict="pass") for event in events]


async def test_a_single_run_that_comes_while_a_great_batch_is_committed_is_over_before_it(ledger_dsn: str) -> None:
    pipelines = (Pipeline("quality", (measure_all,), version="1"), Pipeline("training", (validate,), version="1"))
    async with travelling(Travel(ledger_dsn, pipelines, Neighbours())) as travel:
        await add(travel, *(f"t-{n:03}" for n in range(400)))
        travel.road.put("dq.tick", b"{}")
        while not travel.services.batches:  # noqa: ASYNC110  # told by the stage
            await asyncio.sleep(0.001)
        travel.request("acme")
        runs = await travel.over(401, within=60)
        [single] = [run for run in runs if run["tenant_id"] == "acme"]
        assert sum(run["finished_at"] > single["finished_at"] for run in runs) > 100


@stage(batch=400, retry=RETRY)
async def tell_all(events: list[DqEvaluated], use: Neighbours) -> list[DqDecided]:
    """A second stage for as many."""
    use.batches.append(["told", *(event.key for event in events)])
    return [event.then(DqDecided, verdict=event.verdict) for event in events]


async def test_what_follows_a_great_batch_is_not_taken_for_forgotten_while_the_batch_is_committed(
    ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.dispatch.REAP_EVERY", 0.02)  # whoever looks so often sees every step twice before the batch is over
    pipeline = Pipeline("quality", (measure_all, tell_all), version="1")
    async with travelling(Travel(ledger_dsn, (pipeline,), Neighbours())) as travel:
        await add(travel, *(f"t-{n:03}" for n in range(300)))
        travel.road.put("dq.tick", b"{}")
        await travel.over(300, within=60)
        told = [each for each in travel.services.batches if each[0] == "told"]
        assert len(told) <= len(travel.services.batches) - len(told)


async def test_a_tick_for_one_tenant_measures_that_tenant(travel: Travel) -> None:
    await add(travel, "acme", "globex")
    travel.road.put("dq.tick", b'{"tenant_id": "acme"}')
    [run] = await travel.over()
    assert run["tenant_id"] == "acme"
    assert (await travel.events("dq.evaluated"))[0]["verdict"] == "pass"
