"""What cannot be seen any more is never a pass, and what nobody watches any more has no open incident."""

import json
from uuid import uuid4

import pytest

from agents.quality import alert, measure
from schemas.quality import DqTick
from streams.cpu import ChildDied
from streams.requests import retry_run
from streams.tenants import add_tenant, delete_tenant, suspend_tenant
from tests.quality.data import a_tenant, load, spoil

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings

GONE = "drop table tenants, users, items, user_interactions, model_training_runs"


async def test_tables_that_are_all_gone_are_an_error_for_who_was_measured_and_nothing_for_who_never_was(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    await world.run(await world.train("dirty"), state="blocked")
    await tables.execute(GONE)
    await world.tick("dirty", "new")
    await world.tick("dirty")  # an error in between does not make it unseen
    last = await world.use.quality.last_verdict("dirty")
    assert (last.watched, last.verdict) == (True, "error")
    found = await world.reader.tenant("dirty")
    assert next(check for check in found["checks"] if check["check"] == "measurement")["code"] == "tables_gone"
    assert not (await world.use.quality.last_verdict("new")).watched
    assert [run["state"] for run in await world.runs() if run["pipeline"] == "training"] == ["blocked"]


async def test_what_an_outage_said_of_a_tenant_the_warehouse_does_not_know_is_resolved_by_the_next_tick(world, tables):
    async with tables.transaction():
        await tables.execute("lock table users in access exclusive mode")
        await world.tick("stranger")
    assert "measurement" in [each["check_name"] for each in await world.reader.incidents(state="open")]
    await world.tick("stranger")
    assert await world.reader.incidents(state="open") == []
    told = [each for each in await world.reader.timeline("stranger") if each["check_name"] == "measurement"]
    assert [each["kind"] for each in told] == ["resolved", "opened"]
    assert "nothing is measured" in told[0]["message"]


@pytest.mark.parametrize("end", [suspend_tenant, delete_tenant])
async def test_a_tenant_that_is_not_active_any_more_has_its_open_incidents_resolved_and_told_once(world, tables, end):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    for _ in range(2):
        await end(world.ledger, world.pipelines, "dirty", by="ann")
    assert await world.reader.incidents(state="open") == []
    assert [each["kind"] for each in await world.reader.timeline("dirty")] == ["resolved", "opened"]
    assert len(await world.events("alert.resolved")) == 1


async def test_an_hour_without_a_baseline_lifts_no_block(world, tables):
    """Asking for a measurement, as the block's message advises, finds the same data: only what can be judged is ever good again."""

    async def usual(hour, *numbers):
        samples = {f"2026-02-0{n + 1}": number for n, number in enumerate(numbers)}
        insert = "insert into quality_baselines values ('acme', 'user_interactions.rows_day', $1, $2) on conflict (tenant_id, metric, hour) do update"
        await world.rows(f"{insert} set samples = excluded.samples returning 1", hour, json.dumps(samples))

    await load(tables, a_tenant("acme"))
    await usual(2 * 24 + 12, 5, 6, 5, 6, 5)
    await world.tick("acme")
    await world.run(await world.train("acme"), state="blocked")
    world.later(1)
    await world.tick("acme")
    assert await world.verdict("acme") == "fail"
    async with tables.transaction():
        await tables.execute("lock table user_interactions in access exclusive mode")
        await world.tick("acme")
    assert await world.verdict("acme") == "error"
    await world.tick("acme")
    assert (await world.use.quality.last_verdict("acme")).failed == ["user_interactions.volume"]
    assert [run["state"] for run in await world.runs() if run["pipeline"] == "training"] == ["blocked"]
    world.later(1)
    await usual(2 * 24 + 14, 190, 210, 200, 205, 195)
    await world.tick("acme")
    assert await world.verdict("acme") == "pass"
    await world.until(lambda runs: [run for run in runs if run["pipeline"] == "training" and run["state"] == "succeeded"])
    assert await world.reader.incidents(state="open") == []


@pytest.mark.parametrize("end", [suspend_tenant, delete_tenant])
async def test_a_verdict_that_comes_after_its_tenant_was_suspended_or_deleted_opens_nothing(world, tables, end):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await add_tenant(world.ledger, "dirty", name=None, by="test")
    [found] = await measure([DqTick(tenant_id="dirty", run_id=uuid4())], world.use)
    await end(world.ledger, world.pipelines, "dirty", by="ann")
    [decided] = await alert([found], world.use)
    assert (found.verdict, decided.decisions) == ("fail", [])
    assert await world.reader.incidents() == []


async def test_a_measurement_that_is_retried_counts(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    await tables.execute("delete from user_interactions where interaction_type = 'teleport'")
    world.later(0.1)
    [run] = await world.runs()
    assert (await retry_run(world.ledger, world.pipelines, run["run_id"], stage="measure", by="ann"))["result"] == "reopened"
    await world.run(run["run_id"], state="succeeded")
    assert await world.verdict("dirty") == "pass"
    assert [each["verdict"] for each in await world.reader.history("dirty")] == ["pass", "fail"]
    assert await world.reader.incidents(state="open") == []


async def test_a_judge_that_never_answers_is_an_error_after_the_last_attempt_and_no_old_pass(world, tables, monkeypatch):
    await load(tables, a_tenant("acme"))
    await world.tick("acme")
    assert await world.verdict("acme") == "pass"

    async def dies(function, *args, timeout):
        raise ChildDied("killed")

    known = world.use.quality.attempts

    async def after_three_in_vain(runs, stage):
        return {run: attempt + 3 for run, attempt in (await known(runs, stage)).items()}

    monkeypatch.setattr(world.use.judge, "run", dies)
    monkeypatch.setattr(world.use.quality, "attempts", after_three_in_vain)
    await world.tick("acme")
    assert await world.verdict("acme") == "error"
    found = await world.reader.tenant("acme")
    assert next(check for check in found["checks"] if check["check"] == "measurement")["code"] == "judge_died"
    assert "measurement" in [each["check_name"] for each in await world.reader.incidents(state="open")]
    await world.run(await world.train("acme"), state="blocked")
