"""Requests for many tenants: whom they mean, and that each gets one run."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from streams.everyone import asked, carry_on, chosen_by, dry_run, meant, request_all
from streams.requests import request_run
from streams.stage import GiveUp
from tests.pipeline.test_batches import add
from tests.pipeline.toy import QUALITY, TOY, Neighbours
from tests.travel import Travel, travelling
from tests.web import web_of


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    async with travelling(Travel(ledger_dsn, (TOY, QUALITY), use)) as travel:
        await add(travel, "acme", "globex", "initech")
        await add(travel, "asleep", status="suspended")
        connection = await asyncpg.connect(travel.dsn)
        await connection.execute("""update tenants set labels = '{"tier": "gold"}', owner = 'ann' where tenant_id in ('acme', 'asleep')""")
        await connection.close()
        yield travel


async def test_all_means_every_active_tenant_and_each_gets_one_request(travel: Travel) -> None:
    answer = await request_all(travel.ledger, travel.runtime.pipelines, reason="new features")
    assert answer["result"] == "expanding"
    runs = await travel.over(3)
    assert [run["tenant_id"] for run in sorted(runs, key=lambda run: run["tenant_id"])] == ["acme", "globex", "initech"]
    requests = await travel.events("training.requested")
    assert {(each["tenant_id"], each["reason"]) for each in requests} == {(name, "new features") for name in ("acme", "globex", "initech")}


@pytest.mark.parametrize(
    ("where", "tenants"),
    [([], ["acme", "globex", "initech"]), (["tier=gold"], ["acme"]), (["owner=ann", "status=suspended"], ["asleep"]), (["tier=lead"], [])],
)
async def test_tenants_are_chosen_by_label_owner_and_status(travel: Travel, where: list[str], tenants: list[str]) -> None:
    assert await meant(travel.ledger, chosen_by(where)) == tenants


async def test_the_same_key_asks_once_and_another_body_under_it_is_refused(travel: Travel) -> None:
    pipelines = travel.runtime.pipelines
    first = await request_all(travel.ledger, pipelines, request_key="monday")
    again = await request_all(travel.ledger, pipelines, request_key="monday")
    assert (again["result"], again["expansion"]) == ("seen", first["expansion"])
    assert (await request_all(travel.ledger, pipelines, request_key="monday", reason="other"))["code"] == "all_reused"
    await travel.over(3)
    assert len(await travel.rows("select 1 from causes")) == 3


async def test_whoever_asked_may_carry_it_on_beside_the_workers(travel: Travel) -> None:
    answer = await request_all(travel.ledger, travel.runtime.pipelines, chosen=chosen_by(["tier=gold"]))
    await carry_on(travel.ledger, travel.runtime.pipelines, answer["expansion"])
    [found] = await asked(travel.ledger, answer["expansion"])
    [run] = await travel.over()
    assert (found["tenant_id"], found["run_id"], found["result"]) == ("acme", str(run["run_id"]), "run")


async def test_the_api_wants_it_said_plainly_and_tells_whom_it_means(travel: Travel) -> None:
    async with web_of(travel) as web:
        nobody = await web.post("/api/v1/runs", json={})
        assert (nobody.status_code, nobody.json()["code"]) == (422, "no_tenant")
        assert (await web.post("/api/v1/runs", json={"where": {"status": "odd"}})).json()["code"] == "bad_where"
        dry = await web.post("/api/v1/runs", json={"where": {"tier": "gold"}, "dry_run": True})
        assert dry.json() == {"result": "dry_run", "tenants": ["acme"]}
        assert await travel.runs() == []
        answer = await web.post("/api/v1/runs", json={"all": True})
        assert (answer.status_code, answer.json()["result"]) == (202, "expanding")
        await travel.over(3)
        shown = (await web.get(f"/api/v1/expansions/{answer.json()['expansion']}")).json()
        assert shown["tenants"] == 3
        assert shown["done_at"]


async def test_a_dry_run_is_refused_where_the_request_would_be(travel: Travel) -> None:
    use = travel.ledger, travel.runtime.pipelines
    tried = await dry_run(*use, pipeline="training", chosen={}, config={"epochs": 5}, reason=None)
    assert tried["tenants"] == ["acme", "globex", "initech"]
    for pipeline, config, code in (("nope", None, "unknown_pipeline"), ("training", {"epochs": 0}, "bad_field"), ("quality", {"a": 1}, "bad_field")):
        assert (await dry_run(*use, pipeline=pipeline, chosen={}, config=config, reason=None))["code"] == code
    async with web_of(travel) as web:
        assert (await web.post("/api/v1/runs", json={"all": True, "pipeline": "nope", "dry_run": True})).json()["code"] == "unknown_pipeline"


async def test_a_config_for_a_pipeline_that_takes_none_is_refused_by_name(travel: Travel) -> None:
    pipelines = travel.runtime.pipelines
    one = await request_run(travel.ledger, pipelines, tenant_id="acme", pipeline="quality", config={"epochs": 5})
    many = await request_all(travel.ledger, pipelines, pipeline="quality", config={"epochs": 5})
    assert one["fields"] == many["fields"] == {"config": "the pipeline quality takes none"}
    assert await travel.runs() == []


async def test_a_ledger_that_was_set_back_takes_no_request_for_many_and_the_key_stays_free(travel: Travel) -> None:
    pipelines = travel.runtime.pipelines
    await travel.rows("insert into reconciling (reason) values ('set back') returning 1")
    refused = await request_all(travel.ledger, pipelines, request_key="monday")
    assert (refused["result"], refused["code"]) == ("refused", "reconciling")
    await travel.rows("delete from reconciling returning 1")
    assert (await request_all(travel.ledger, pipelines, request_key="monday"))["result"] == "expanding"
    await travel.over(3)


async def test_a_request_for_many_that_this_worker_cannot_make_keeps_no_other_waiting(travel: Travel) -> None:
    await travel.rows(
        "insert into expansions (event_key, event_id, pipeline, data, source, chosen, publish, at) "
        "values (gen_random_uuid(), gen_random_uuid(), 'gone', '{}', 'tidemill', '{}', true, '2020-01-01') returning 1"
    )
    await request_all(travel.ledger, travel.runtime.pipelines)
    await travel.over(3)
    assert await travel.rows("select pipeline from expansions where done_at is null") == [{"pipeline": "gone"}]
