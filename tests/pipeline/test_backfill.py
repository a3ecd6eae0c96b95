"""Past due times made up for in a batch: each once, one a tenant at a time, to be paused and cancelled on the way."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from streams.backfill import change_backfill, due_times, start_backfill
from streams.ledger.connection import Connection
from streams.ledger.reader import Reader
from streams.schedule import Rule
from streams.stage import GiveUp
from tests.pipeline.test_batches import add
from tests.pipeline.test_schedules import schedule
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling
from tests.web import web_of


class Batch:
    """A worker, and a backfill of the last days of a daily schedule."""

    def __init__(self, travel: Travel, reader: Reader) -> None:
        self.travel, self.reader, self.today = travel, reader, travel.clock.now().date()

    async def start(self, days: int = 3, **said: Any) -> dict[str, Any]:
        first, last = self.today - timedelta(days=days), self.today - timedelta(days=1)
        said = {"first": first, "last": last, "chosen": {}, "at_once": 10, "by": "test"} | said
        return await start_backfill(self.travel.ledger, "daily", **said)

    async def change(self, answer: dict[str, Any], state: str) -> str:
        return (await change_backfill(self.travel.ledger, answer["backfill"], state, by="ann"))["result"]

    async def progress(self) -> Any:
        return (await self.reader.backfills())[0]

    async def done(self) -> Any:
        await self.travel.see("select 1 from backfills where state = 'done'", within=30)
        return await self.progress()


@pytest.fixture
async def batch(ledger_dsn: str) -> AsyncIterator[Batch]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    connection = Connection(ledger_dsn)
    async with travelling(Travel(ledger_dsn, (TOY,), use)) as travel:
        await schedule(travel, next_due=travel.clock.now() + timedelta(hours=1))
        yield Batch(travel, Reader(connection))
    await connection.close()


async def test_every_day_becomes_one_run_of_each_tenant_one_after_another(batch: Batch) -> None:
    await add(batch.travel, "acme", "globex")
    dry = await batch.start(dry_run=True)
    assert (dry["result"], dry["due_times"], dry["planned"]) == ("planned", 3, 6)
    assert await batch.reader.backfills() == []
    answer = await batch.start()
    assert (answer["result"], answer["planned"]) == ("started", 6)
    found = await batch.done()
    assert (found.slots, found.failed, found.percent) == (6, 6, 100)
    runs = await batch.travel.runs()
    assert [run["causes"] for run in runs] == [1] * 6
    slots = await batch.travel.rows("select due from slots where tenant_id = 'acme' order by fired_at")
    assert [slot["due"].date() for slot in slots] == [batch.today - timedelta(days=n) for n in (3, 2, 1)]


async def test_asked_again_it_asks_for_nothing_twice_and_for_what_is_missing(batch: Batch) -> None:
    await add(batch.travel, "acme")
    await batch.start()
    await batch.done()
    again = await batch.start()
    assert (again["result"], again["planned"], again["fired_before"]) == ("there", 0, 3)
    longer = await batch.start(days=4)
    assert (longer["result"], longer["planned"], longer["fired_before"]) == ("started", 1, 3)
    await batch.travel.over(4)
    assert len(await batch.travel.runs()) == 4


async def test_it_is_paused_resumed_and_cancelled_on_the_way(batch: Batch) -> None:
    batch.travel.services.fail.clear()
    await add(batch.travel, "acme", "globex", "initech")
    answer = await batch.start(at_once=2)
    await batch.travel.until(lambda runs: sum(run["stage"] == "train" for run in runs) == 2)
    assert (await batch.progress()).open == 2
    assert await batch.change(answer, "paused") == "paused"
    assert await batch.change(answer, "paused") == "there"
    batch.travel.services.finding = {"status": "completed", "model_path": "models/x"}
    await batch.travel.wait_out(2)
    assert await batch.travel.runtime.timers.feed() == 0
    assert (await batch.progress()).planned == 7
    assert await batch.change(answer, "running") == "running"
    await batch.travel.until(lambda runs: len(runs) == 4)
    assert await batch.change(answer, "cancelled") == "cancelled"
    await batch.travel.wait_out(4)
    found = await batch.progress()
    assert (found.state, found.succeeded, found.skipped, found.planned) == ("cancelled", 4, 5, 0)
    assert await batch.change(answer, "running") == "refused"
    assert (await batch.start())["planned"] == 5


async def test_a_pause_of_the_tenant_keeps_its_slots_planned(batch: Batch) -> None:
    await add(batch.travel, "acme", "globex")
    await batch.travel.rows("insert into pauses (tenant_id, reason, paused_by, since) values ('acme', '', 'ann', now())")
    await batch.start()
    await batch.travel.over(3)
    found = await batch.progress()
    assert (found.state, found.planned, found.failed) == ("running", 3, 3)


async def test_the_api_and_the_page_start_show_pause_and_cancel_it(batch: Batch) -> None:
    batch.travel.services.fail.clear()
    await add(batch.travel, "acme", "globex")
    days = {"first_day": str(batch.today - timedelta(days=3)), "last_day": str(batch.today - timedelta(days=1))}
    async with web_of(batch.travel) as web:
        path = "/api/v1/backfills"
        for wrong, status, code in (
            ({"schedule": "weekly"}, 404, "unknown_schedule"),
            ({"tenant": "Acme"}, 422, "invalid"),
            ({"where": {"status": "odd"}}, 422, "bad_where"),
            ({"first_day": str(batch.today)}, 422, "bad_field"),
            ({"at_once": 0}, 422, "invalid"),
        ):
            answer = await web.post(path, json={"schedule": "daily"} | days | wrong)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        dry = await web.post(path, json={"schedule": "daily", "tenant": "acme", "dry_run": True} | days)
        assert (dry.json()["result"], dry.json()["planned"]) == ("planned", 3)
        assert (await web.get(path)).json() == []
        made = await web.post(path, json={"schedule": "daily", "at_once": 1} | days)
        assert (made.status_code, made.json()["result"], made.json()["planned"]) == (202, "started", 6)
        one = f"{path}/{made.json()['backfill']}"
        await batch.travel.until(lambda runs: len(runs) == 1)
        assert (await web.post(f"{one}/pause")).json()["result"] == "paused"
        shown = (await web.get(one)).json()
        assert (shown["state"], shown["slots"], shown["open"], shown["planned"], shown["percent"]) == ("paused", 6, 1, 5, 0)
        page = (await web.get("/schedules", headers={"Accept": "text/html"})).text
        assert all(word in page for word in ("Backfills", "0 % of 6", f"{one}/resume", f"{one}/cancel"))
        assert (await web.post(f"{one}/cancel")).json()["result"] == "cancelled"
        assert (await web.post(f"{one}/resume")).json()["code"] == "backfill_over"
        assert (await web.get(f"{path}/{UUID(int=1)}")).json()["code"] == "unknown_backfill"


def test_days_are_those_of_the_schedules_zone_and_only_the_past() -> None:
    now = datetime(2026, 3, 30, 12, tzinfo=UTC)
    times = due_times(Rule("30 2 * * *", "Europe/Berlin"), date(2026, 3, 28), date(2026, 4, 2), now)
    assert [time.isoformat() for time in times] == ["2026-03-28T01:30:00+00:00", "2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00"]
