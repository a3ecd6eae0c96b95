"""What did not happen is told once, through the same incidents as data quality, and taken back when it happens."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from agents.absence import judge
from streams.absence import Absence
from streams.alerts import Alerts
from streams.clients.answers import Problem, refusal
from streams.ledger.connection import Connection
from streams.pauses import pause, resume
from streams.stage import GiveUp
from streams.tenants import add_tenant, change_tenant, suspend_tenant
from tests.fakes import FakeMonitoring
from tests.pipeline.toy import QUALITY, TOY, Neighbours
from tests.travel import Travel, travelling

HOUR = timedelta(hours=1)
WAITING = "select 1 from pg_stat_activity where datname = current_database() and query like '%lock_tenant%' and wait_event_type = 'Lock'"


class Watch:
    """A worker, the look for what did not happen, and what monitoring was told."""

    def __init__(self, travel: Travel, connection: Connection) -> None:
        self.travel, self.monitoring = travel, FakeMonitoring()
        self.absence = Absence(connection, travel.clock, travel.settings, judge)
        self.alerts = Alerts(connection, self.monitoring, travel.clock, kept=timedelta(days=180))

    async def tenant(self, name: str, **settings: Any) -> None:
        await add_tenant(self.travel.ledger, name, name=None, by="test")
        await self.set(name, **settings)

    async def set(self, name: str, **settings: Any) -> None:
        changes = {f"absence.{key}": value for key, value in settings.items()}
        answer = await change_tenant(self.travel.ledger, name, name=None, owner="ann", labels={}, settings=changes, by="test")
        assert answer["result"] != "refused", answer

    async def look(self, after: timedelta = timedelta(0)) -> list[tuple[str, str, str]]:
        """What is told now that was not told before: (tenant, check, kind)."""
        self.travel.clock.ahead += after
        before = set(self.monitoring.alerts)
        await self.absence.look()
        while await self.alerts.deliver():
            pass
        new = [alert for key, alert in self.monitoring.alerts.items() if key not in before]
        return sorted((alert["tenant_id"], alert["details"]["check"], alert["details"]["kind"]) for alert in new)

    def said(self, kind: str = "opened") -> dict[str, Any]:
        return next(alert for alert in reversed(self.monitoring.alerts.values()) if alert["details"]["kind"] == kind)

    async def train(self, tenant: str, job: dict[str, Any] | None = None) -> None:
        self.travel.services.finding = job or {"status": "completed", "model_path": "models/x"}
        before = len(await self.travel.runs())
        self.travel.request(tenant)
        await self.travel.until(lambda runs: len(runs) > before and any(r["tenant_id"] == tenant and r["stage"] == "train" for r in runs))
        await self.travel.see("select 1 from steps where state = 'waiting'")
        await self.travel.wait_out(before + 1)


@pytest.fixture
async def watch(ledger_dsn: str) -> AsyncIterator[Watch]:
    connection = Connection(ledger_dsn)
    async with travelling(Travel(ledger_dsn, (TOY, QUALITY), Neighbours())) as travel:
        yield Watch(travel, connection)
    await connection.close()


async def test_a_tenant_without_a_good_training_is_told_once_and_taken_back(watch: Watch) -> None:
    await watch.tenant("acme", tick_within="off")
    assert await watch.look(29 * HOUR) == []
    assert await watch.look(2 * HOUR) == [("acme", "absence.training", "opened")]
    said = watch.said()
    assert said["title"] == "No successful training for 31 h"
    assert "there was none at all" in said["message"]
    assert said["details"]["owner"] == "ann"
    assert await watch.look(HOUR) == []
    watch.travel.services.fail["validate"] = [GiveUp("there is none", code="no_data")]
    watch.travel.request("acme")
    await watch.travel.over(1)
    assert await watch.look(HOUR) == []
    await watch.train("acme")
    assert await watch.look() == [("acme", "absence.training", "resolved")]
    assert watch.said("resolved")["title"] == "Resolved: there was a successful training again"
    assert [len(await watch.travel.events(topic)) for topic in ("alert.raised", "alert.resolved")] == [1, 1]
    [incident] = await watch.travel.rows("select state, transitions from incidents")
    assert incident == {"state": "resolved", "transitions": 2}


async def test_a_missing_tick_is_told_and_a_tick_of_any_verdict_ends_it(watch: Watch) -> None:
    await watch.tenant("acme", training_within="off")
    assert await watch.look(8 * HOUR) == [("acme", "absence.tick", "opened")]
    watch.travel.road.put("dq.tick", b'{"tenant_id": "acme"}')
    await watch.travel.over(1)
    assert await watch.look() == [("acme", "absence.tick", "resolved")]


async def test_a_run_that_is_not_over_within_its_time_is_told_with_its_id(watch: Watch) -> None:
    await watch.tenant("acme", training_within="off", tick_within="off", run_within="3h")
    watch.travel.request("acme")
    await watch.travel.see("select 1 from steps where state = 'waiting'")
    assert await watch.look(4 * HOUR) == [("acme", "absence.run", "opened")]
    [run] = await watch.travel.runs()
    assert str(run["run_id"])[:8] in watch.said()["message"]
    watch.travel.services.finding = {"status": "completed", "model_path": "models/x"}
    await watch.travel.wait_out(1)
    assert await watch.look() == [("acme", "absence.run", "resolved")]
    assert "is over: succeeded" in watch.said("resolved")["message"]


async def test_a_run_of_any_pipeline_is_watched_whichever_other_is_paused(watch: Watch) -> None:
    await watch.tenant("acme", training_within="off", tick_within="off")
    ledger, pipelines = watch.travel.ledger, watch.travel.runtime.pipelines
    await watch.travel.rows(
        "insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, request, request_id, causes, version, requested_at)"
        " values (gen_random_uuid(), 'acme', 'quality', '1', 'running', '{}', gen_random_uuid(), 1, 1, $1)",
        watch.travel.clock.now(),
    )
    await pause(ledger, pipelines, pipeline="training", tenant_id=None, reason="", by="test")
    assert await watch.look(9 * HOUR) == [("acme", "absence.run", "opened")]
    await resume(ledger, pipelines, pipeline="training", tenant_id=None, reason="", by="test")
    assert await watch.look() == []
    await pause(ledger, pipelines, pipeline="quality", tenant_id=None, reason="", by="test")
    assert await watch.look() == [("acme", "absence.run", "resolved")]
    assert "nothing is expected" in watch.said("resolved")["message"]
    await resume(ledger, pipelines, pipeline="quality", tenant_id=None, reason="", by="test")
    assert await watch.look(7 * HOUR) == []
    assert await watch.look(2 * HOUR) == [("acme", "absence.run", "reopened")]
    await watch.travel.rows("delete from runs")


async def test_the_alert_names_the_schedules_that_cover_the_tenant_and_no_other(watch: Watch) -> None:
    await watch.tenant("acme", tick_within="off")
    await watch.tenant("globex", tick_within="off")
    for name, tenant, paused in (("acme-hourly", "acme", True), ("training-daily", None, False), ("training-once", None, False)):
        due = watch.travel.clock.now() + 40 * HOUR if name == "training-daily" else None
        await watch.travel.rows(
            "insert into schedules (name, pipeline, tenant_id, cron, paused, next_due) values ($1, 'training', $2, '0 * * * *', $3, $4)",
            *(name, tenant, paused, due),
        )
    assert len(await watch.look(31 * HOUR)) == 2
    said = {alert["tenant_id"]: alert["message"] for alert in watch.monitoring.alerts.values()}
    assert "its schedules are acme-hourly (paused). " in said["acme"]
    assert "its schedules are training-daily, training-once (over). " in said["globex"]


async def test_nothing_is_expected_of_tenants_that_are_paused_suspended_or_have_it_off(watch: Watch) -> None:
    for name in ("paused", "asleep", "off"):
        await watch.tenant(name, tick_within="off", training_within="off" if name == "off" else "20h")
    await pause(watch.travel.ledger, watch.travel.runtime.pipelines, pipeline="training", tenant_id="paused", reason="", by="test")
    assert await watch.look(21 * HOUR) == [("asleep", "absence.training", "opened")]
    await suspend_tenant(watch.travel.ledger, watch.travel.runtime.pipelines, "asleep", by="test")
    assert await watch.look() == [("asleep", "absence.training", "resolved")]
    assert "suspended" in watch.said("resolved")["message"]


async def test_the_time_counts_from_the_end_of_a_pause(watch: Watch) -> None:
    for name in ("acme", "globex"):
        await watch.tenant(name, tick_within="off", training_within="20h")
    ledger, pipelines = watch.travel.ledger, watch.travel.runtime.pipelines
    await pause(ledger, pipelines, pipeline="training", tenant_id="acme", reason="", by="test")
    assert await watch.look(21 * HOUR) == [("globex", "absence.training", "opened")]
    await resume(ledger, pipelines, pipeline="training", tenant_id="acme", reason="", by="test")
    assert await watch.look(19 * HOUR) == []
    assert await watch.look(2 * HOUR) == [("acme", "absence.training", "opened")]


async def test_many_pauses_of_old_do_not_slow_the_look_down(watch: Watch) -> None:
    await watch.travel.rows("insert into tenants (tenant_id) select 't-' || n from generate_series(1, 2000) n")
    await watch.travel.rows(
        "insert into pauses (tenant_id, pipeline, reason, paused_by, since, ended_at)"
        " select tenant_id, 'training', '', 'test', now(), now() from tenants, generate_series(1, 10)"
    )
    began = time.monotonic()
    assert await watch.absence.look() == 0
    assert time.monotonic() - began < 5


async def test_a_thousand_tenants_are_looked_at_at_once_and_one_worker_looks(watch: Watch) -> None:
    insert = "insert into tenants (tenant_id) select 't-' || n from generate_series(1, 1000) n"
    await watch.travel.rows(insert)
    await watch.travel.rows("insert into tenant_heads (tenant_id) select tenant_id from tenants")
    watch.travel.clock.ahead += 31 * HOUR
    assert await watch.absence.look() == 2000
    assert await watch.absence.look() == 0
    looks = [await watch.travel.rows("select may_look('absence', '1 minute') as mine") for _ in range(3)]
    assert [rows[0]["mine"] for rows in looks] == [True, None, None]


@pytest.mark.parametrize(("status", "told"), [(401, 1), (404, 1), (409, 1), (413, 0), (422, 0)])
async def test_an_alert_that_monitoring_refuses_is_told_once_that_is_mended(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, status: int, told: int
) -> None:
    await watch.tenant("acme", tick_within="off")

    async def refuse(**_: Any) -> None:
        raise refusal("monitoring", status, Problem())

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr(watch.monitoring, "raise_alert", refuse)
        assert await watch.look(31 * HOUR) == []
        assert await watch.look(HOUR) == []
    assert len([line for line in logs if line["event"] == "alert, not delivered yet"]) == 1
    assert len(await watch.look(timedelta(minutes=1))) == told


async def test_a_look_that_takes_long_is_not_joined_by_another(watch: Watch) -> None:
    await watch.tenant("acme", tick_within="off")
    watch.travel.clock.ahead += 31 * HOUR
    holder, connection = await asyncpg.connect(watch.travel.dsn), Connection(watch.travel.dsn)
    try:
        async with holder.transaction():
            await holder.execute("select lock_tenant('acme')")
            slow = asyncio.create_task(watch.absence.look())
            await watch.travel.see(WAITING)
            other = asyncio.create_task(Absence(connection, watch.travel.clock, watch.travel.settings, judge).look())
            await asyncio.wait([other], timeout=3)  # it has read before the other's writing is seen
        assert (await slow, await other) == (1, 0)
    finally:
        await connection.close()
        await holder.close()
    assert await watch.look() == [("acme", "absence.training", "opened")]
