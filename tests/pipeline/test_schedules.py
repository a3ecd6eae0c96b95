"""Schedules through the real runtime: each slot fires once, whoever is there to fire it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from streams import timers
from streams.ledger.connection import Connection
from streams.stage import GiveUp
from streams.timers import Timers
from tests.pipeline.test_batches import add
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    async with travelling(Travel(ledger_dsn, (TOY,), use)) as travel:
        yield travel


async def schedule(travel: Travel, name: str = "daily", **columns: Any) -> None:
    """A schedule that is not paused and was due a moment ago."""
    due = travel.clock.now() - timedelta(seconds=1)
    known = {"name": name, "pipeline": "training", "cron": "0 2 * * *", "paused": False, "next_due": due} | columns
    connection = await asyncpg.connect(travel.dsn)
    marks = ", ".join(f"${n}" for n in range(1, len(known) + 1))
    await connection.execute(f"insert into schedules ({', '.join(known)}) values ({marks})", *known.values())
    await connection.close()


async def test_each_active_tenant_gets_one_request_that_names_its_slot(travel: Travel) -> None:
    await add(travel, "acme", "globex")
    await add(travel, "asleep", status="suspended")
    await schedule(travel)
    runs = await travel.over(2)
    assert {run["tenant_id"] for run in runs} == {"acme", "globex"}
    requests = await travel.events("training.requested")
    assert len(requests) == 2
    assert all(request["slot"] for request in requests)


async def test_two_workers_fire_a_slot_once(travel: Travel, ledger_dsn: str) -> None:
    await add(travel, *(f"t-{n}" for n in range(300)))
    other = Travel(ledger_dsn, (TOY,), travel.services, road=travel.road)
    async with travelling(other):
        await schedule(travel)
        await travel.over(300, within=30)
        await asyncio.sleep(1)
    assert len(await travel.runs()) == 300
    assert {row["state"] for row in await travel.rows("select state from slots")} == {"fired"}


async def test_a_crowd_is_asked_for_before_any_of_its_runs_is_told_of_or_begins(travel: Travel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "SLOTS", 20)
    await add(travel, *(f"t-{n}" for n in range(110)))
    await schedule(travel)
    await travel.over(110)
    [row] = await travel.rows("select (select max(fired_at) from slots) as fired, (select min(started_at) from steps) as began")
    assert row["fired"] <= row["began"]
    await travel.published()
    last_asked = max(record.timestamp_ms for record in travel.road.log["training.requested"])
    assert last_asked <= min(record.timestamp_ms for record in travel.road.log["run.accepted"])


async def test_a_tenants_own_schedule_takes_the_place_of_the_general_one(travel: Travel) -> None:
    await add(travel, "acme", "globex")
    await schedule(travel, "acme-weekly", tenant_id="acme", next_due=travel.clock.now() + timedelta(days=3))
    await schedule(travel)
    [run] = await travel.over()
    assert run["tenant_id"] == "globex"


async def test_jitter_spreads_tenants_and_puts_each_always_at_the_same_place(travel: Travel) -> None:
    await add(travel, *(f"t-{n}" for n in range(50)))
    await schedule(travel, jitter=timedelta(hours=1))
    slots = await travel.see("select tenant_id, fire_at - due as wait, place(tenant_id) as place from slots", rows=50)
    waits = [slot["wait"] / timedelta(hours=1) for slot in slots]
    assert 0 <= min(waits) < 0.2
    assert 0.8 < max(waits) < 1
    assert all(abs(wait - slot["place"]) < 1e-6 for wait, slot in zip(waits, slots, strict=True))


async def test_a_paused_schedule_makes_nothing(travel: Travel) -> None:
    await add(travel, "acme")
    await schedule(travel, paused=True)
    await asyncio.sleep(1.5)
    assert await travel.rows("select 1 from slots") == []


async def test_with_overlap_skip_a_busy_tenant_is_passed_over_with_the_reason(travel: Travel) -> None:
    travel.services.fail.clear()
    await add(travel, "acme")
    travel.request()
    await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    await schedule(travel, overlap="skip")
    [slot] = await travel.see("select state, reason from slots where state <> 'due'")
    assert (slot["state"], slot["reason"]) == ("skipped", "a run was active (overlap: skip)")
    assert len(await travel.runs()) == 1


@pytest.mark.parametrize(("overlap", "states"), [("skip", {"fired": 1, "skipped": 3}), ("queue", {"fired": 2, "due": 2}), ("merge", {"fired": 4})])
async def test_overlap_holds_among_slots_that_are_due_at_once(travel: Travel, overlap: str, states: dict[str, int]) -> None:
    travel.services.fail.clear()  # the first run stays open: its job goes on
    await add(travel, "acme", "globex")
    due = travel.clock.now() - timedelta(hours=3, minutes=30)
    await schedule(travel, cron=f"{due.minute} * * * *", missed="all", overlap=overlap, next_due=due)
    await travel.see("select 1 from slots where state <> 'due'", rows=2 * sum(n for state, n in states.items() if state != "due"))
    await asyncio.sleep(1)
    for tenant in ("acme", "globex"):
        slots = await travel.rows("select state, run_id from slots where tenant_id = $1 order by due", tenant)
        assert Counter(slot["state"] for slot in slots) == states
        assert slots[0]["state"] == "fired"
        assert len({slot["run_id"] for slot in slots if slot["run_id"]}) == min(states["fired"], 2)


@pytest.mark.parametrize(("overlap", "states"), [("skip", {"fired": 1, "skipped": 3}), ("queue", {"fired": 2, "due": 2})])
async def test_overlap_holds_among_slots_that_workers_take_at_the_same_moment(
    travel: Travel, overlap: str, states: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SLOTS", 1)
    travel.services.fail.clear()
    await add(travel, "acme")
    due = travel.clock.now() - timedelta(hours=3, minutes=30)
    connections = [Connection(travel.dsn) for _ in range(3)]
    others = [Timers(travel.runtime.pipelines, each, travel.clock, publish=travel.runtime.outbox.publish, begin=lambda: None) for each in connections]
    holder = await asyncpg.connect(travel.dsn)
    async with holder.transaction():
        await holder.execute("select 1 from tenant_heads where tenant_id = 'acme' for update")
        await schedule(travel, cron=f"{due.minute} * * * *", missed="all", overlap=overlap, next_due=due)
        await travel.see("select 1 from slots", rows=4)
        firing = [asyncio.create_task(each.fire_slots()) for each in others]
        await travel.see("select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()", rows=4)
    await asyncio.gather(*firing)
    await travel.see("select 1 from slots where state <> 'due'", rows=sum(n for state, n in states.items() if state != "due"))
    await asyncio.sleep(1)
    assert Counter(row["state"] for row in await travel.rows("select state from slots")) == states
    for connection in (*connections, holder):
        await connection.close()


async def test_a_schedule_that_nobody_can_follow_is_paused_and_the_others_go_on(travel: Travel) -> None:
    await add(travel, "acme")
    await schedule(travel, "broken", cron="nonsense")
    await schedule(travel)
    await travel.over(1)
    await travel.see("select 1 from schedules where name = 'broken' and paused")


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"pipeline": "laundry"}, "there is no pipeline laundry"),
        ({"request": json.dumps({"model_config": {"epochs": 0}})}, "request.model_config.epochs: Input should be greater than or equal to 1"),
    ],
)
async def test_a_slot_that_fits_no_request_is_skipped_with_the_reason_and_the_others_fire(travel: Travel, spoilt: Any, reason: str) -> None:
    await add(travel, "acme", "globex")
    with capture_logs() as logs:
        await schedule(travel, "broken", next_due=travel.clock.now() - timedelta(seconds=2), **spoilt)
        await schedule(travel)
        await travel.over(2)
    slots = await travel.see("select state, reason from slots join schedules using (schedule_id) where name = 'broken' and state <> 'due'", rows=2)
    assert {(slot["state"], slot["reason"]) for slot in slots} == {("skipped", reason)}
    assert [(line["schedule"], line["slots"]) for line in logs if line.get("code") == "bad_slot"] == [("broken", 2)]


@pytest.fixture
async def away(ledger_dsn: str) -> Travel:
    """A worker that is not started yet."""
    return Travel(ledger_dsn, (TOY,), Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]}))


async def spread_and_stop(away: Travel, **columns: Any) -> None:
    """Slots of three tenants, spread over four hours after a due time of just now; the next is in a day. Then the only worker stops."""
    async with travelling(away):
        await add(away, "acme", "globex", "initech")
        before = away.clock.now() - timedelta(minutes=2)
        await schedule(away, cron=f"{before.minute} {before.hour} * * *", jitter=timedelta(hours=4), **columns)
        await away.see("select 1 from slots where state = 'due'", rows=3)


@asynccontextmanager
async def later(away: Travel, passed: timedelta) -> AsyncIterator[Travel]:
    """Another worker, started when so much time has passed."""
    again = Travel(away.dsn, (TOY,), away.services, road=away.road)
    again.clock.ahead = passed
    async with travelling(again):
        yield again


NOBODY = "missed while no worker was there"


@pytest.mark.parametrize(
    ("missed", "catch_up", "reason"),
    [
        ("skip", timedelta(days=1), f"{NOBODY} (missed: skip)"),
        ("all", timedelta(hours=2), f"{NOBODY} (older than catch-up: 02:00:00)"),
        ("latest", timedelta(hours=2), f"{NOBODY} (older than catch-up: 02:00:00)"),
        ("latest", timedelta(days=1), None),
        ("all", timedelta(days=1), None),
    ],
)
async def test_slots_that_came_due_while_all_workers_were_down_go_by_the_policy(
    away: Travel, missed: str, catch_up: timedelta, reason: str | None
) -> None:
    await spread_and_stop(away, missed=missed, catch_up=catch_up)
    await away.rows("update slots set backfill_id = gen_random_uuid() where tenant_id = 'initech' returning 1")  # old by nature
    async with later(away, timedelta(hours=17)) as travel:
        slots = await travel.see("select tenant_id, state, reason from slots where state <> 'due' order by tenant_id", rows=3)
    assert [slot["state"] for slot in slots] == [*["skipped" if reason else "fired"] * 2, "fired"]
    assert {slot["reason"] for slot in slots[:2]} == {reason or "run"}


async def test_after_days_away_a_tenant_whose_slot_was_pending_gets_the_latest_only(away: Travel) -> None:
    await spread_and_stop(away, missed="latest", catch_up=timedelta(days=7))
    async with later(away, timedelta(days=3)) as travel:
        await travel.see("select 1 from slots where state = 'due'", rows=3)
        old = await travel.see("select state, reason from slots where due < now() + interval '1 hour' and state <> 'due'", rows=3)
        assert {(slot["state"], slot["reason"]) for slot in old} == {("skipped", f"{NOBODY} (missed: latest)")}
        travel.clock.ahead += timedelta(hours=5)
        await travel.over(3)
    assert len(await away.runs()) == 3


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
async def test_a_restart_of_some_seconds_misses_no_slot(away: Travel, missed: str) -> None:
    await spread_and_stop(away, missed=missed)
    await away.rows("update slots set fire_at = now() + interval '2 hours' returning 1")
    async with later(away, timedelta(hours=2, seconds=20)) as travel:
        await travel.over(3)
    assert {slot["state"] for slot in await away.rows("select state from slots")} == {"fired"}


async def test_what_waits_in_a_queue_is_not_missed_when_workers_were_away(away: Travel) -> None:
    away.services.fail.clear()  # the first run stays open: its job goes on
    due = away.clock.now() - timedelta(hours=3, minutes=30)
    async with travelling(away):
        await add(away, "acme")
        await schedule(away, cron=f"{due.minute} * * * *", missed="all", overlap="queue", next_due=due)
        await away.see("select 1 from slots where state = 'fired'", rows=2)
        await away.rows("update schedules set paused = true returning 1")
    async with later(away, timedelta(days=3)) as travel:
        await travel.see("select 1 from looks where name = 'timers' and at > now() + interval '1 day'")
    assert Counter(row["state"] for row in await away.rows("select state from slots")) == {"fired": 2, "due": 2}
