"""The quality pipeline through the real runtime: verdicts, incidents, alerts, the gate, and the warehouse's training runs."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from agents.quality import alert, measure
from expectations.warehouse import Warehouse
from schemas.quality import DqEvaluated, DqTick
from streams.ledger.connection import Connection, connect
from streams.projection import Projection
from streams.proof import record
from streams.quality import allow, reconsider
from streams.resident import ResidentChild
from streams.stage import GiveUp, TryAgain
from streams.tenants import add_tenant, change_tenant, suspend_tenant
from tests.fakes import FakeMonitoring
from tests.quality.data import NOW, Rows, a_tenant, load, spoil
from tests.quality.world import World, open_world

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings


def told(world):
    """What monitoring was told, in order: (tenant, check, kind)."""
    return [(alert["tenant_id"], alert["details"]["check"], alert["details"]["kind"]) for alert in world.monitoring.alerts.values()]


async def deliver(world):
    while await world.alerts.deliver():
        pass


async def mend(tables, tenant="dirty"):
    await tables.execute("delete from user_interactions where tenant_id = $1 and interaction_type = 'teleport'", tenant)


async def test_the_judge_in_its_child_says_what_it_says_here(ledger_dsn, warehouse_dsn, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    async with ResidentChild(memory=4 << 30) as judge, open_world(World(ledger_dsn, warehouse_dsn, FakeMonitoring()), judge) as world:
        await world.tick("dirty")
        assert (await world.use.quality.last_verdict("dirty")).failed == ["user_interactions.types"]


async def test_a_dirty_tenant_is_blocked_and_let_through_once_its_data_is_mended(world, tables):
    await load(tables, a_tenant("healthy"))
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("healthy", "dirty")
    assert (await world.verdict("healthy"), await world.verdict("dirty")) == ("pass", "fail")
    good, bad = await world.train("healthy"), await world.train("dirty")
    await world.run(good, state="succeeded")
    blocked = await world.run(bad, state="blocked")
    assert blocked["code"] == "data_quality"
    assert "user_interactions.types" in blocked["reason"]
    await deliver(world)
    assert told(world) == [("dirty", "user_interactions.types", "opened")]

    await mend(tables)
    await world.tick("dirty")
    runs = await world.until(
        lambda runs: [r for r in runs if r["tenant_id"] == "dirty" and r["pipeline"] == "training" and r["state"] == "succeeded"]
    )
    assert len([run for run in runs if run["tenant_id"] == "dirty" and run["pipeline"] == "training"]) == 2
    await deliver(world)
    assert told(world)[1:] == [("dirty", "user_interactions.types", "resolved")]
    raw = await connect(world.dsn, timeout=10, name="test")
    measured = [run for run in runs if run["tenant_id"] == "dirty" and run["pipeline"] == "quality"]
    proven = [await record.load(raw, run["run_id"]) for run in measured]
    alerts = [said.topic for each in proven for said in each.events if said.topic.startswith("alert.")]
    assert alerts == ["alert.raised", "alert.resolved"]  # so `tidemill prove` finds in the journal what lies on Kafka
    await raw.close()


async def test_a_training_request_before_the_first_verdict_has_the_tenant_measured_and_waits_for_it(world, tables):
    await load(tables, a_tenant("fresh"))
    await load(tables, spoil(a_tenant("foul"), kinds=90))
    good, bad = await world.train("fresh"), await world.train("foul")
    await world.run(good, state="succeeded")
    await world.run(bad, state="blocked")
    assert len([run for run in await world.runs() if run["pipeline"] == "quality"]) == 2


async def test_who_is_not_in_the_warehouse_is_neither_watched_nor_gated(world, tables):
    run = await world.train("stranger")
    await world.run(run, state="succeeded")
    await world.tick("stranger")
    last = await world.use.quality.last_verdict("stranger")
    assert not last.watched
    await world.run(await world.train("stranger"), state="succeeded")
    await deliver(world)
    assert told(world) == []


async def test_who_has_rows_and_no_entry_is_measured_before_its_first_training(world, tables):
    rows = spoil(a_tenant("foul"), kinds=90)
    rows.tenants = []
    await load(tables, rows)
    await world.run(await world.train("foul"), state="blocked")


async def test_a_verdict_from_before_there_was_any_data_lets_nobody_through_once_there_is(world, tables):
    await world.tick("late")
    await load(tables, spoil(a_tenant("late"), kinds=90))
    await world.run(await world.train("late"), state="blocked")


async def test_an_allowance_and_the_tenants_own_gate_count_before_the_first_verdict(world, tables):
    for tenant in ("allowed", "ungated"):
        await load(tables, spoil(a_tenant(tenant), kinds=90))
        await add_tenant(world.ledger, tenant, name=None, by="test")
    await allow(world.ledger, world.pipelines, "allowed", reason="known, harmless", by="ann", hold=timedelta(hours=2))
    await change_tenant(world.ledger, "ungated", name=None, owner=None, labels={}, settings={"quality.gate": "off"}, by="test")
    for tenant in ("allowed", "ungated"):
        await world.run(await world.train(tenant), state="succeeded")
    assert {run["pipeline"] for run in await world.runs()} == {"training"}  # nobody waited for a measurement


async def test_a_measurement_that_ends_without_a_verdict_is_asked_for_again(world, tables, monkeypatch):
    run, failures = world.use.judge.run, [GiveUp("not today", code="judge_died")]

    async def fails_once(function, *args, timeout):
        if failures:
            raise failures.pop()
        return await run(function, *args, timeout=timeout)

    monkeypatch.setattr(world.use.judge, "run", fails_once)
    await load(tables, a_tenant("acme"))
    await world.run(await world.train("acme"), state="succeeded")
    assert sorted(run["state"] for run in await world.runs() if run["pipeline"] == "quality") == ["failed", "succeeded"]


async def test_a_measurement_that_is_refused_lets_nobody_train_unmeasured(world):
    await add_tenant(world.ledger, "acme", name=None, by="test")
    await suspend_tenant(world.ledger, world.pipelines, "acme", by="test")
    with pytest.raises(TryAgain, match="tenant_suspended"):
        await world.use.quality.ask_to_measure("acme", uuid4())


async def test_who_turns_out_to_have_no_data_is_measured_once_and_then_trains(world, tables, monkeypatch):
    """The gate takes whom it cannot ask for as watched; what the measuring found for this very run then counts."""

    async def in_doubt(warehouse, tenant):
        return True

    monkeypatch.setattr(Warehouse, "knows", in_doubt)
    await world.tick("stranger")
    await world.run(await world.train("stranger"), state="succeeded")
    assert len([run for run in await world.runs() if run["pipeline"] == "quality"]) == 2


async def test_an_allowance_lets_a_tenant_train_until_it_expires_and_is_in_the_journal(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    await world.run(await world.train("dirty"), state="blocked")
    answer = await allow(world.ledger, world.pipelines, "dirty", reason="known, harmless", by="ann", hold=timedelta(hours=2))
    await world.run(answer["run_id"], state="succeeded")
    await world.run(await world.train("dirty"), state="succeeded")
    world.later(3)
    await world.run(await world.train("dirty"), state="blocked")
    [entry] = await world.rows("select data from journal where kind = 'quality_allowed'")
    assert "known, harmless" in entry["data"]


@pytest.mark.parametrize("meanwhile", ["verdict", "allowance"])
async def test_a_training_blocked_just_as_it_might_have_passed_is_let_through_by_the_next_look_once(world, tables, meanwhile):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    await world.run(await world.train("dirty"), state="blocked")
    connection = Connection(world.dsn)
    assert await reconsider(connection, world.ledger, world.pipelines) == 0
    if meanwhile == "verdict":  # as they are recorded when nobody finds the blocked run yet
        await world.rows("update quality_states set verdict = 'pass'")
    else:
        given = "insert into quality_allowances (tenant_id, reason, given_by, given_at, until) values ('dirty', 'harmless', 'ann', $1, $2)"
        await world.rows(given, NOW, NOW + timedelta(hours=1))
    assert [await reconsider(connection, world.ledger, world.pipelines) for _ in range(2)] == [1, 0]
    await world.until(lambda runs: [run for run in runs if run["pipeline"] == "training" and run["state"] == "succeeded"])
    await connection.close()


async def test_a_table_that_is_locked_is_one_incident_and_never_a_pass(world, tables):
    await load(tables, a_tenant("acme"))
    async with tables.transaction():
        await tables.execute("lock table items in access exclusive mode")
        await world.tick("acme")
    assert await world.verdict("acme") == "error"
    await deliver(world)
    assert told(world) == [("acme", "measurement", "opened")]
    [alert] = world.monitoring.alerts.values()
    assert alert["details"]["code"] == "table_locked"
    await world.run(await world.train("acme"), state="blocked")
    await world.tick("acme")
    await deliver(world)
    assert told(world)[1:] == [("acme", "measurement", "resolved")]


class Deaf(FakeMonitoring):
    """Monitoring that is away until told otherwise."""

    away = True

    async def raise_alert(self, **alert: Any) -> None:
        if self.away:
            raise TryAgain("monitoring does not answer", code="monitoring_away", free=True, waiting_for="monitoring")
        await super().raise_alert(**alert)


async def test_while_monitoring_is_away_an_alert_is_logged_once_and_delivered_later_once(ledger_dsn, warehouse_dsn, tables):
    monitoring = Deaf()
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    async with open_world(World(ledger_dsn, warehouse_dsn, monitoring)) as world:
        await world.tick("dirty")
        with capture_logs() as logs:
            for _ in range(5):
                await world.alerts.deliver()
                world.later(1)
        said = [line for line in logs if line["event"] == "alert, not delivered yet"]
        assert [(line["tenant"], line["code"], line["severity"]) for line in said] == [("dirty", "monitoring_away", "high")]
        assert await world.verdict("dirty") == "fail"  # the verdict does not wait for monitoring
        monitoring.away = False
        await deliver(world)
        await deliver(world)
        assert told(world) == [("dirty", "user_interactions.types", "opened")]


async def test_the_same_verdict_recorded_twice_changes_nothing_the_second_time(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    [step] = await world.rows("select input from steps where stage = 'alert'")
    event = DqEvaluated.model_validate_json(step["input"])
    [again] = await alert([event], world.use)
    assert [each["action"] for each in again.decisions] == ["open"]
    assert len(await world.rows("select 1 from incident_transitions")) == 1


async def test_the_baseline_learns_one_sample_an_hour_of_the_week_and_week(world, tables):
    await load(tables, a_tenant("acme"))
    await world.tick("acme")
    await world.tick("acme")
    [row] = await world.rows("select hour, samples from quality_baselines where metric = 'user_interactions.rows_day'")
    assert row["hour"] == 2 * 24 + 12
    assert row["samples"].count("2026-03-02") == 1


async def test_a_clean_tenants_scheduled_tick_reads_new_rows_alone(world, tables):
    await load(tables, a_tenant("acme"))
    await world.tick("acme")
    world.later(1)
    [found] = await measure([DqTick(tenant_id="acme", run_id=uuid4(), slot=NOW)], world.use)
    assert found.profile["count_on"]["since"] > (NOW + timedelta(minutes=50)).isoformat()
    assert next(check["of"] for check in found.checks if check["check"] == "items.future") == 20
    assert found.profile["count_on"]["whole_at"] < NOW.replace(hour=13).isoformat()


async def test_a_tick_that_comes_a_moment_early_reads_everything_once_a_day_all_the_same(world, tables):
    await load(tables, a_tenant("acme"))
    await world.tick("acme")
    world.later(23.9)
    [found] = await measure([DqTick(tenant_id="acme", run_id=uuid4(), slot=NOW)], world.use)
    assert found.profile["count_on"]["whole_at"] > (NOW + timedelta(hours=23)).isoformat()


async def test_ended_training_runs_appear_in_the_warehouse_once(world, tables, warehouse_dsn):
    await load(tables, Rows(tenants=[("acme", None)]))
    run = await world.train("stranger")
    await world.run(run, state="succeeded")
    ledger, warehouse = Connection(world.dsn), Connection(warehouse_dsn)
    projection = Projection(ledger, warehouse, role="tidemill_projector")
    await tables.execute("alter table model_training_runs rename to kept")
    with pytest.raises(Exception, match="model_training_runs"):
        await projection.step()
    await ledger.drop()
    await warehouse.drop()
    await tables.execute("alter table kept rename to model_training_runs")
    assert await projection.step() == 1
    assert await projection.step() == 0
    [row] = await tables.fetch("select run_id, tenant_id, status from model_training_runs")
    assert tuple(row) == (run, "stranger", "succeeded")
    await ledger.close()
    await warehouse.close()


async def test_an_end_of_a_run_that_comes_while_the_one_before_is_being_shown_keeps_its_place(world, tables, warehouse_dsn):
    run = await world.train("stranger")
    await world.run(run, state="succeeded")
    ledger, warehouse = Connection(world.dsn), Connection(warehouse_dsn)
    projection = Projection(ledger, warehouse, role="tidemill_projector")
    await tables.execute("begin; lock table model_training_runs in access exclusive mode")
    showing = asyncio.create_task(projection.step())
    while not await tables.fetch("select 1 from pg_locks where not granted and relation = 'model_training_runs'::regclass"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    again = "insert into projection_queue (run_id, version) select run_id, version + 1 from runs where run_id = $1 on conflict do nothing returning 1"
    assert await world.rows(again, run)  # as the trigger does, when the run that was opened again has ended
    await tables.execute("commit")
    assert await showing == 1
    assert await projection.step() == 1
    assert await projection.step() == 0
    await ledger.close()
    await warehouse.close()


async def test_types_that_are_allowed_no_longer_are_found_among_the_old_rows_at_the_next_tick(world, tables):
    await load(tables, a_tenant("acme"))
    await world.tick("acme")
    await world.rows("""update tenants set settings = '{"quality": {"interaction_types": ["view"]}}' where tenant_id = 'acme' returning 1""")
    world.later(1)
    [found] = await measure([DqTick(tenant_id="acme", run_id=uuid4(), slot=NOW)], world.use)
    assert found.verdict == "fail"
