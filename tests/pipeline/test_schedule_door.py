"""What people do with schedules: make, change, pause, resume, end them, while workers run."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from streams.ledger.queries import queries
from streams.schedules import Changes, delete_schedule, pause_schedule, resume_schedule, set_schedule
from streams.stage import GiveUp
from tests.pipeline.test_batches import add
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling
from tests.web import web_of

DAILY = {"pipeline": "training", "cron": "0 2 * * *"}


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    async with travelling(Travel(ledger_dsn, (TOY,), use)) as travel:
        yield travel


async def put(travel: Travel, name: str = "daily", **said: Any) -> dict[str, Any]:
    return await set_schedule(travel.ledger, travel.runtime.pipelines, name, Changes.model_validate(said), by="ann")


async def resume(travel: Travel, name: str = "daily") -> dict[str, Any]:
    return await resume_schedule(travel.ledger, name, by="ann")


async def test_a_new_schedule_is_paused_and_begins_with_its_next_time_once_resumed(travel: Travel) -> None:
    await add(travel, "acme")
    made = await put(travel, **DAILY)
    assert (made["result"], made["revision"], made["paused"], made["next_due"]) == ("created", 1, True, None)
    assert (await put(travel, **DAILY))["result"] == "there"
    resumed = await resume(travel)
    assert (resumed["result"], resumed["revision"]) == ("resumed", 2)
    await asyncio.sleep(1)
    assert await travel.runs() == []
    travel.clock.ahead = timedelta(days=1)
    [run] = await travel.over()
    assert run["tenant_id"] == "acme"


async def test_a_changed_schedule_fires_at_its_new_time_without_a_restart(travel: Travel) -> None:
    await add(travel, "acme")
    now = travel.clock.now()
    await put(travel, **DAILY | {"cron": f"{now.minute} {now.hour} 1 1 *"})
    before = (await resume(travel))["next_due"]
    changed = await put(travel, cron="*/5 * * * *")
    assert (changed["result"], changed["revision"]) == ("changed", 3)
    assert changed["next_due"] < before
    travel.clock.ahead = timedelta(minutes=6)
    await travel.over()


async def test_a_schedule_that_is_over_goes_on_when_its_end_is_put_off(travel: Travel) -> None:
    await add(travel, "acme")
    now = travel.clock.now()
    await put(travel, **DAILY | {"cron": "*/5 * * * *", "ends_at": now + timedelta(minutes=6)})
    await resume(travel)
    travel.clock.ahead = timedelta(minutes=30)
    await travel.see("select 1 from schedules where next_due is null and not paused")
    await travel.over(1)
    assert (await put(travel, ends_at=now + timedelta(days=1)))["next_due"] is not None
    travel.clock.ahead = timedelta(minutes=36)
    await travel.over(2)


@pytest.mark.parametrize(("policy", "fires"), [("skip", 0), ("latest", 1), ("all", 3)])
async def test_a_resumed_schedule_makes_up_for_what_it_missed_by_its_policy(travel: Travel, policy: str, fires: int) -> None:
    await add(travel, "acme")
    await put(travel, **DAILY, missed=policy, catch_up=7 * 86_400)
    await resume(travel)
    await pause_schedule(travel.ledger, "daily", by="ann")
    travel.clock.ahead = timedelta(days=3)
    await asyncio.sleep(1)
    assert await travel.rows("select 1 from slots") == []
    await resume(travel)
    if fires:
        await travel.see("select 1 from slots where state = 'fired'", rows=fires)
    await asyncio.sleep(1)
    assert len(await travel.rows("select 1 from slots")) == fires


async def test_the_history_says_who_changed_what_and_outlives_the_schedule(travel: Travel) -> None:
    await put(travel, **DAILY)
    await resume(travel)
    await put(travel, cron="0 3 * * *")
    assert (await delete_schedule(travel.ledger, "daily", by="bob"))["result"] == "deleted"
    rows = await travel.rows("select revision, what, changed_by from schedule_changes where name = 'daily' order by revision")
    assert [tuple(row.values()) for row in rows] == [(1, "created", "ann"), (2, "resumed", "ann"), (3, "changed", "ann"), (4, "deleted", "bob")]
    assert (await resume(travel))["code"] == "unknown_schedule"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"pipeline": "training"}, "schedule_incomplete"),
        ({"pipeline": "training", "cron": "every day"}, "bad_schedule"),
        ({"pipeline": "training", "cron": "0 2 * * *", "zone": "Mars/Base"}, "bad_schedule"),
        ({"pipeline": "laundry", "cron": "0 2 * * *"}, "unknown_pipeline"),
        ({"pipeline": "training", "cron": "0 2 * * *", "tenant_id": "nobody"}, "unknown_tenant"),
        ({"pipeline": "training", "cron": "0 2 * * *", "request": {"model_config": {"epochs": 0}}}, "bad_field"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused_by_name(travel: Travel, said: dict[str, Any], code: str) -> None:
    assert (await put(travel, **said))["code"] == code
    assert await travel.rows("select 1 from schedules") == []


async def test_what_a_request_would_pass_over_is_refused_by_its_path(travel: Travel) -> None:
    said = {"config": {"epochs": 5}, "modle_config": {}, "reason": "nightly"}
    assert (await put(travel, **DAILY, request=said))["fields"].keys() == {"request.config", "request.modle_config"}
    assert (await put(travel, **DAILY, request={"model_config": {"epochs": 5}, "reason": "nightly"}))["result"] == "created"


async def test_a_schedule_keeps_its_tenant_and_refuses_unknown_fields(travel: Travel) -> None:
    await add(travel, "acme")
    await put(travel, **DAILY)
    assert (await put(travel, tenant_id="acme"))["code"] == "schedule_bound"
    with pytest.raises(ValidationError):
        Changes.model_validate({"crom": "0 2 * * *"})


async def test_the_api_and_the_page_show_next_fires_and_last_slots(travel: Travel) -> None:
    await add(travel, "acme")
    async with web_of(travel) as web:
        path = "/api/v1/schedules/daily"
        assert (await web.put(path, json=DAILY | {"cron": "*/5 * * * *"})).json()["result"] == "created"
        assert (await web.put(path, json={"cron": "no"})).json()["code"] == "bad_schedule"
        assert (await web.post(f"{path}/resume")).status_code == 202
        travel.clock.ahead = timedelta(minutes=6)
        await travel.over()
        fires = (await web.get(f"{path}/preview?count=3&zone=Europe/Berlin")).json()
        assert len(fires) == 3
        assert (await web.get(f"{path}/preview?zone=Mars")).json()["code"] == "bad_schedule"
        history = (await web.get(f"{path}/history")).json()
        assert [(slot["tenant_id"], slot["state"]) for slot in history["slots"]] == [("acme", "fired")]
        assert [each["what"] for each in history["changes"]] == ["resumed", "created"]
        text = (await web.get("/schedules", headers={"Accept": "text/html"})).text
        assert all(word in text for word in ("daily", "*/5 * * * *", "fired", "Fires next", f"{path}/pause"))
        assert (await web.delete(path)).json()["result"] == "deleted"
        assert (await web.get(path)).json()["code"] == "unknown_schedule"


async def test_of_many_schedules_the_page_shows_the_first_and_says_how_many_it_does_not(travel: Travel) -> None:
    await travel.rows("insert into tenants (tenant_id) select 't-' || n from generate_series(1, 30) n returning 1")
    sql = "insert into schedules (name, pipeline, tenant_id, cron) select 'a-' || t, 'training', t, '0 2 * * *' from unnest($1::text[]) t returning 1"
    await travel.rows(sql, [f"t-{n}" for n in range(1, 31)])
    await put(travel, "z-everybody", **DAILY)
    html = {"Accept": "text/html"}
    async with web_of(travel) as web:
        text = (await web.get("/schedules", headers=html)).text
        assert (text.count("<section>"), "11 more are not shown" in text) == (20, True)
        assert text.index("z-everybody") < text.index("a-t-1")
        assert "1 more is not shown" in (await web.get("/schedules?limit=30", headers=html)).text
        own = (await web.get("/schedules?tenant=T-7", headers=html)).text
        assert (own.count("<section>"), "a-t-7" in own, "not shown" in own) == (1, True, False)
        assert "tenant&#39;s own" not in own
        assert "Show all" in (await web.get("/schedules?tenant=no%20id", headers=html)).text
        assert [each["name"] for each in (await web.get("/api/v1/schedules?limit=2")).json()] == ["z-everybody", "a-t-1"]
        assert [each["name"] for each in (await web.get("/api/v1/schedules?tenant=t-7")).json()] == ["a-t-7"]


async def test_the_newest_slots_are_read_without_the_others(travel: Travel) -> None:
    await add(travel, "t-3", "new")
    await put(travel, **DAILY)
    await travel.rows(
        "insert into slots (schedule_id, tenant_id, due, fire_at, state) "
        "select s.schedule_id, 't-' || t, now() - d * interval '1 day', now(), 'fired' "
        "from schedules s, generate_series(1, 200) d, generate_series(1, 50) t where d > 10 or t <> 3 returning 1"
    )
    [row] = await travel.rows("select schedule_id from schedules")
    raw = await asyncpg.connect(travel.dsn)
    await raw.execute("analyze slots")
    asked = {
        "schedules": (None, None, 10),
        "slots": ([row["schedule_id"]], 10),
        "covering": ("t-3",),
    }
    for name, args in asked.items():
        plan = json.loads(await raw.fetchval(f"explain (analyze, format json) {queries()[name]}", *args))
        assert most_rows(plan[0]["Plan"]) < 200, name
    [of_t3] = await raw.fetch(queries()["covering"], "t-3")
    [of_new] = await raw.fetch(queries()["covering"], "new")
    await raw.close()
    assert (of_t3["last_state"], of_new["last_state"]) == ("fired", None)
    assert timedelta(days=11) <= travel.clock.now() - of_t3["last_due"] < timedelta(days=12)


def most_rows(node: dict[str, Any]) -> float:
    """What the plan's busiest node read."""
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return max([read * node["Actual Loops"], *map(most_rows, node.get("Plans", []))])


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
@pytest.mark.parametrize("field", ["starts_at", "ends_at"])
async def test_a_day_that_no_calendar_holds_is_refused_and_the_page_survives_one_let_in_before(travel: Travel, field: str, when: str) -> None:
    async with web_of(travel) as web:
        path = "/api/v1/schedules/daily"
        said = (await web.put(path, json=DAILY | {field: when})).json()
        assert (said["code"], [each["field"] for each in said["fields"]]) == ("bad_schedule", [field])
        assert (await web.put(path, json=DAILY)).json()["result"] == "created"
        await travel.rows(f"update schedules set {field} = $1 returning 1", datetime.fromisoformat(when))
        assert (await web.get("/schedules", headers={"Accept": "text/html"})).status_code == 200
        assert (await web.put(path, json={"cron": "0 3 * * *"})).json()["code"] == "bad_schedule"
        assert (await web.put(path, json={field: None})).json()["result"] == "changed"
