"""Pauses of pipelines and tenants: what is asked for waits, what runs finishes its step, schedules hold their times."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from streams.pauses import pause, resume
from streams.stage import GiveUp
from tests.pipeline.test_batches import add
from tests.pipeline.test_schedules import schedule
from tests.pipeline.toy import QUALITY, TOY, Neighbours
from tests.travel import Travel, travelling
from tests.web import web_of


@pytest.fixture(params=[True, False], ids=["eager", "through-kafka"])
async def travel(ledger_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    async with travelling(Travel(ledger_dsn, (TOY, QUALITY), use, eager=request.param)) as travel:
        await add(travel, "acme", "globex")
        yield travel


async def hold(travel: Travel, pipeline: str | None = None, tenant: str | None = None) -> str:
    said = await pause(travel.ledger, travel.runtime.pipelines, pipeline=pipeline, tenant_id=tenant, reason="upgrade", by="ann")
    return str(said["result"])


async def free(travel: Travel, pipeline: str | None = None, tenant: str | None = None) -> str:
    said = await resume(travel.ledger, travel.runtime.pipelines, pipeline=pipeline, tenant_id=tenant, reason="done", by="bob")
    return str(said["result"])


@pytest.mark.parametrize("what", [("training", None), (None, "acme"), ("training", "acme")])
async def test_requests_of_who_is_paused_are_accepted_and_wait(travel: Travel, what: tuple[str | None, str | None]) -> None:
    assert await hold(travel, *what) == "paused"
    assert await hold(travel, *what) == "there"
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 1)
    await asyncio.sleep(0.7)
    assert [(run["state"], run["finished_at"]) for run in await travel.runs()] == [("running", None)]
    assert travel.services.calls == []
    assert await free(travel, *what) == "resumed"
    await travel.over(1)


async def test_a_pause_concerns_nobody_else(travel: Travel) -> None:
    await hold(travel, tenant="acme")
    travel.request("globex")
    [run] = await travel.over(1)
    assert run["tenant_id"] == "globex"


async def test_another_pause_that_covers_the_same_goes_on(travel: Travel) -> None:
    await hold(travel, "training")
    await hold(travel, tenant="acme")
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 1)
    await free(travel, "training")
    await asyncio.sleep(0.7)
    assert travel.services.calls == []
    await free(travel, tenant="acme")
    await travel.over(1)


async def test_a_run_under_way_stops_after_its_step_and_goes_on_later(travel: Travel) -> None:
    travel.services.fail.clear()
    travel.request("acme")
    await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'")
    await hold(travel, tenant="acme")
    done = {"tenant_id": "acme", "job_id": await job(travel), "status": "completed", "model_path": "models/acme/x"}
    travel.road.put("training.completed", json.dumps(done).encode())
    await travel.see("select 1 from steps where stage = 'index' and state = 'ready' and worker is null")
    await asyncio.sleep(0.5)
    assert "index" not in [name for name, _ in travel.services.calls]
    await free(travel, tenant="acme")
    [run] = await travel.over(1)
    assert run["state"] == "succeeded"


async def job(travel: Travel) -> str:
    [row] = await travel.rows("select job ->> 'job_id' as job from steps where stage = 'train'")
    return str(row["job"])


async def test_the_pause_is_kept_with_who_began_and_ended_it_and_why(travel: Travel) -> None:
    await hold(travel, tenant="acme")
    await free(travel, tenant="acme")
    [row] = await travel.rows("select * from pauses")
    assert (row["paused_by"], row["reason"], row["ended_by"], row["end_reason"]) == ("ann", "upgrade", "bob", "done")
    kinds = await travel.rows("select kind from journal where tenant_id = 'acme' order by seq")
    assert [each["kind"] for each in kinds] == ["tenant_paused", "tenant_unpaused"]
    assert await free(travel, tenant="acme") == "there"


async def test_a_short_pause_over_a_tenants_place_in_the_jitter_misses_nothing(travel: Travel) -> None:
    await schedule(travel, missed="skip", jitter=timedelta(minutes=30), tenant_id="acme")
    await travel.see("select 1 from slots where state = 'due'")
    await hold(travel, tenant="acme")
    await travel.rows("update slots set due = due - interval '20 minutes', fire_at = now() + interval '20 minutes' returning 1")
    travel.clock.ahead = timedelta(minutes=20, seconds=2)
    await travel.see("select 1 from slots where state = 'held'")
    travel.clock.ahead += timedelta(seconds=10)
    await free(travel, tenant="acme")
    await travel.over(1)


@pytest.mark.parametrize(("policy", "fires"), [("skip", 0), ("latest", 1), ("all", 3)])
async def test_due_times_of_who_is_paused_are_held_and_fire_by_policy_afterwards(travel: Travel, policy: str, fires: int) -> None:
    await hold(travel, tenant="acme")
    await schedule(travel, missed=policy, catch_up=timedelta(days=7), tenant_id="acme", next_due=travel.clock.now() - timedelta(seconds=1))
    for day in range(1, 3):
        await travel.see("select 1 from slots where state = 'held'", rows=day)
        [row] = await travel.rows("select next_due from schedules")
        travel.clock.ahead += row["next_due"] - travel.clock.now()
    await travel.see("select 1 from slots where state = 'held'", rows=3)
    assert await travel.runs() == []
    travel.clock.ahead += timedelta(minutes=5)
    await free(travel, tenant="acme")
    await asyncio.sleep(1.2)
    states = [row["state"] for row in await travel.rows("select state from slots")]
    assert (states.count("fired"), states.count("skipped")) == (fires, 3 - fires)


async def test_nothing_named_and_unknown_names_are_refused(travel: Travel) -> None:
    pipelines = travel.runtime.pipelines
    facts = {"reason": "x", "by": "ann"}
    assert (await pause(travel.ledger, pipelines, pipeline=None, tenant_id=None, **facts))["code"] == "nothing_named"
    assert (await pause(travel.ledger, pipelines, pipeline="laundry", tenant_id=None, **facts))["code"] == "unknown_pipeline"
    assert (await pause(travel.ledger, pipelines, pipeline=None, tenant_id="nobody", **facts))["code"] == "unknown_tenant"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "pauses"), ("POST", "runs"), ("PUT", "schedules/nightly"), ("PATCH", "quality/acme/checks"), ("POST", f"runs/{UUID(int=1)}/cancel")],
)
async def test_a_ledger_that_was_set_back_takes_no_move_and_says_why(travel: Travel, method: str, path: str) -> None:
    await travel.rows("insert into reconciling (reason) values ('restored from a backup; rebuild it') returning 1")
    async with web_of(travel) as web:
        refused = await web.request(method, f"/api/v1/{path}", json={"tenant_id": "acme"})
        assert (refused.status_code, refused.json()) == (503, {"code": "reconciling", "message": "restored from a backup; rebuild it"})
        assert (await web.get("/api/v1/pauses")).json() == []
