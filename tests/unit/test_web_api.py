"""The HTTP side of the control plane, over a ledger in memory: what callers send, what they hear."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from schemas.catalogue import EVENTS
from streams.web import make_web
from tests.unit.web_fakes import World, a_run

RUNS = "/api/v1/tenants/acme/runs"


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def web(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_web(world.parts()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client


async def test_a_requested_run_is_accepted_with_its_id(world: World, web: httpx.AsyncClient) -> None:
    answer = await web.post(RUNS, json={"model_config": {"epochs": 3}, "reason": "new data"})
    assert (answer.status_code, answer.json()["run_id"], answer.json()["result"]) == (202, world.ledger.says["run_id"], "run")
    assert world.ledger.asked[0]["data"]["model_config"]["epochs"] == 3
    assert "outbox" not in answer.json()


async def test_the_key_in_the_header_and_in_the_body_ask_for_the_same_run(world: World, web: httpx.AsyncClient) -> None:
    await web.post(RUNS, json={}, headers={"Idempotency-Key": "k1"})
    await web.post(RUNS, json={"request_key": "k1"})
    assert world.ledger.asked[0]["event_id"] == world.ledger.asked[1]["event_id"]
    answer = await web.post(RUNS, json={"request_key": "k1"}, headers={"Idempotency-Key": "k2"})
    assert (answer.status_code, answer.json()["code"]) == (422, "two_keys")


@pytest.mark.parametrize(
    ("body", "field"),
    [('{"model_config": {"epochs": "many"}}', "model_config.epochs"), ('{"modle_config": {}}', "body.modle_config"), ("{", "body.1"), ("[]", "body")],
)
async def test_a_wrong_body_names_its_field_and_reaches_nobody(world: World, web: httpx.AsyncClient, body: str, field: str) -> None:
    answer = await web.post(RUNS, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["fields"]] == [field]
    assert world.ledger.asked == []


@pytest.mark.parametrize(("code", "status"), [("key_reused", 422), ("unknown_tenant", 404), ("tenant_suspended", 409)])
async def test_a_refusal_of_the_ledger_is_a_sentence_with_the_right_status(world: World, web: httpx.AsyncClient, code: str, status: int) -> None:
    world.ledger.says = {"result": "refused", "code": code}
    answer = await web.post(RUNS, json={"request_key": "k1"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message"}


async def test_above_the_outbox_limit_nothing_more_is_accepted(world: World, web: httpx.AsyncClient) -> None:
    world.reader.outbox = 100_001
    answer = await web.post(RUNS, json={})
    assert (answer.status_code, answer.json()["code"], world.ledger.asked) == (503, "outbox_full", [])


async def test_a_running_run_can_be_asked_to_end(world: World, web: httpx.AsyncClient) -> None:
    world.ledger.says = {"result": "cancelling"}
    answer = await web.post(f"/api/v1/runs/{uuid4()}/cancel", json={})
    assert (answer.status_code, answer.json()["result"]) == (202, "cancelling")


async def test_runs_have_the_shape_that_scripts_rely_on(world: World, web: httpx.AsyncClient) -> None:
    world.reader.all_runs = [a_run(), a_run(tenant_id="globex", state="failed")]
    found = (await web.get("/api/v1/runs", params={"tenant": "globex"})).json()
    assert [run["state"] for run in found] == ["failed"]
    assert {"run_id", "tenant_id", "pipeline", "state", "stage", "requested_at", "finished_at", "outcome", "reason"} <= set(found[0])


async def test_a_run_that_does_not_exist_is_404_with_a_sentence(web: httpx.AsyncClient) -> None:
    answer = await web.get(f"/api/v1/runs/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_run")


@pytest.mark.parametrize("tenant", ["Acme", "a", "acme%0a", "%2e%2e%2fx", "a" * 64, "acme'--"])
async def test_what_is_no_tenant_id_never_reaches_the_ledger(world: World, web: httpx.AsyncClient, tenant: str) -> None:
    for path in (f"/api/v1/tenants/{tenant}", f"/api/v1/tenants/{tenant}/state", f"/api/v1/versions/{tenant}", f"/tenants/{tenant}"):
        assert (await web.get(path)).status_code in (404, 422)
    assert (await web.post(f"/api/v1/tenants/{tenant}/runs", json={})).status_code in (404, 405, 422)
    assert world.ledger.asked == []


async def test_a_tenants_state_comes_from_the_table(world: World, web: httpx.AsyncClient) -> None:
    world.table = {"acme": {"training": {"state": "running", "version": 7}}}
    answer = (await web.get("/api/v1/tenants/acme/state")).json()
    assert answer == {"tenant_id": "acme", "source": "table", "pipelines": {"training": {"state": "running", "version": 7}}}


async def test_while_the_table_is_not_whole_the_ledger_answers_for_it(world: World, web: httpx.AsyncClient) -> None:
    world.table, world.reader.all_runs = None, [a_run(version=7), a_run(version=9, state="pending")]
    answer = (await web.get("/api/v1/tenants/acme/state")).json()
    assert (answer["source"], answer["pipelines"]["training"]["state"]) == ("ledger", "pending")


async def test_an_event_stream_goes_on_after_the_last_event_seen(web: httpx.AsyncClient) -> None:
    answer = await web.get("/api/v1/tenants/acme/events", headers={"Last-Event-ID": "2"})
    assert [line for line in answer.text.splitlines() if line.startswith("id:")] == ["id: 3", "id: 4", "id: 5"]
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_an_event_stream_starts_now_or_some_entries_before(web: httpx.AsyncClient) -> None:
    assert "id: 5" in (await web.get("/api/v1/tenants/acme/events?last=1")).text
    assert "id:" not in (await web.get("/api/v1/tenants/acme/events")).text


async def test_there_is_a_bound_on_event_streams(world: World, web: httpx.AsyncClient) -> None:
    world.journal.open = 64
    assert (await web.get("/api/v1/tenants/acme/events")).json()["code"] == "too_many_streams"
    assert (await web.get("/api/v1/tenants/nobody/events")).status_code == 404


async def test_the_ledgers_outage_is_503_with_a_code(world: World, web: httpx.AsyncClient) -> None:
    world.reader.away = ConnectionRefusedError("secret detail")
    for path in ("/api/v1/runs", "/api/v1/tenants"):
        answer = await web.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_away")
    assert "secret" not in answer.text


async def test_a_defect_shows_no_traceback(world: World, web: httpx.AsyncClient) -> None:
    world.reader.away = RuntimeError("secret detail")
    answer = await web.get("/api/v1/runs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text


async def test_every_stage_of_a_pipeline_is_described(web: httpx.AsyncClient) -> None:
    training, _quality = (await web.get("/api/v1/pipelines")).json()
    assert [stage["name"] for stage in training["stages"]] == ["validate", "train", "index", "deploy", "warm"]
    assert all(stage["doc"] for stage in training["stages"])


async def test_the_asyncapi_document_has_every_event_and_every_reference_leads_somewhere(web: httpx.AsyncClient) -> None:
    document = (await web.get("/asyncapi.json")).json()
    assert document["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in document["channels"].values()} >= {*EVENTS, "run.state", "dead.letters"}

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            return [str(node["$ref"])] if "$ref" in node else [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


async def test_metrics_say_how_many_runs_are_in_each_state(world: World, web: httpx.AsyncClient) -> None:
    world.reader.all_runs, world.reader.outbox = [a_run()], 12
    text = (await web.get("/metrics")).text
    assert 'tidemill_runs{state="running"} 1.0' in text
    assert "tidemill_outbox_rows 12.0" in text
    assert "tidemill_ledger_up 1.0" in text
    world.reader.away = ConnectionRefusedError()
    assert "tidemill_ledger_up 0.0" in (await web.get("/metrics")).text


async def test_what_postgresql_cannot_store_is_the_callers_mistake(world: World, web: httpx.AsyncClient) -> None:
    world.reader.away = asyncpg.CharacterNotInRepertoireError("invalid byte sequence")
    answer = await web.get("/api/v1/runs?pipeline=%00")
    assert (answer.status_code, answer.json()["code"]) == (422, "unstorable")


async def test_a_ledger_that_goes_away_over_a_command_may_have_carried_it_out(world: World, web: httpx.AsyncClient) -> None:
    world.ledger.away = ConnectionResetError()
    answer = await web.post(f"/api/v1/runs/{uuid4()}/cancel", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "unsure")
