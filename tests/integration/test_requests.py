"""The one door for requests, on a real ledger with a real runtime beside it, Kafka played by a list."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from streams.clock import Clock
from streams.ledger.ledger import Ledger
from streams.ledger.reader import Reader
from streams.ledger.rows import DeadRecord
from streams.pipelines import Pipelines
from streams.redrive import drop, redrive
from streams.requests import cancel_run, request_run, retry_run
from streams.settings import Settings
from streams.stage import GiveUp
from streams.tenants import add_tenant, resume_tenant, suspend_tenant
from tests.pipeline.toy import QUALITY, TOY, Neighbours
from tests.travel import Travel, travelling

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]


@pytest.fixture
def pipelines(ledger_dsn: str) -> Pipelines:
    return Pipelines((TOY,), Settings.model_validate({"ledger": {"dsn": ledger_dsn}, "runtime": {"unknown_tenants": "create"}}))


@pytest.fixture
async def ledger(pipelines: Pipelines) -> AsyncIterator[Ledger]:
    """The ledger as the CLI opens it: no worker of its own."""
    ledger = Ledger(pipelines.settings.ledger, Clock())
    ledger.start()
    yield ledger
    await ledger.stop()


@pytest.fixture
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger.calls)


async def ask(ledger: Ledger, pipelines: Pipelines, tenant: str = "acme", **wish: Any) -> dict[str, Any]:
    return await request_run(ledger, pipelines, tenant_id=tenant, **wish)


async def test_one_key_asks_for_one_run_however_often(ledger: Ledger, pipelines: Pipelines, reader: Reader) -> None:
    answers = await asyncio.gather(*(ask(ledger, pipelines, request_key="monday", config={"epochs": 3}) for _ in range(8)))
    assert sorted(answer["result"] for answer in answers) == ["run"] + ["seen"] * 7
    assert len({answer["run_id"] for answer in answers}) == 1
    assert len(await reader.runs()) == 1
    assert (await reader.backlog()).outbox == 2  # the request itself, and run.accepted


async def test_one_key_from_cli_and_api_is_one_request(ledger: Ledger, pipelines: Pipelines) -> None:
    first = await ask(ledger, pipelines, request_key="monday", source="cli")
    second = await ask(ledger, pipelines, request_key="monday", source="api")
    assert (second["result"], second["run_id"]) == ("seen", first["run_id"])


async def test_a_key_with_another_body_is_refused(ledger: Ledger, pipelines: Pipelines) -> None:
    first = await ask(ledger, pipelines, request_key="monday", config={"epochs": 3})
    other = await ask(ledger, pipelines, request_key="monday", config={"epochs": 4})
    assert (other["result"], other["code"], other["run"]) == ("refused", "key_reused", first["run_id"])


async def test_requests_without_a_key_merge_into_one_follow_up(ledger: Ledger, pipelines: Pipelines, reader: Reader) -> None:
    answers = [await ask(ledger, pipelines, config={"epochs": n}) for n in (1, 2, 3)]
    assert [answer["result"] for answer in answers] == ["run", "pending", "merged"]
    detail = await reader.run(UUID(answers[2]["run_id"]))
    assert [cause.request["model_config"]["epochs"] for cause in detail.causes] == [2, 3]
    assert detail.request["model_config"]["epochs"] == 3


@pytest.mark.parametrize(
    ("wish", "code", "field"),
    [
        ({"config": {"epochs": "many"}}, "bad_field", "model_config.epochs"),
        ({"config": {"epochs": 0}}, "bad_field", "model_config.epochs"),
        ({"request_key": "x" * 201}, "bad_field", "request_key"),
        ({"config": {"a": float("nan")}}, "bad_json", None),
        ({"config": {"a": 2**70}}, "bad_number", None),
        ({"config": {"a": "\ud800"}}, "bad_text", None),
        ({"config": {"a": "nul \0"}}, "bad_text", None),
        ({"reason": "nul \0"}, "bad_text", None),
        ({"tenant": "Acme\n"}, "bad_tenant", None),
        ({"pipeline": "nope"}, "unknown_pipeline", None),
    ],
)
async def test_a_bad_request_is_refused_by_name_and_leaves_nothing(
    ledger: Ledger, pipelines: Pipelines, reader: Reader, wish: dict[str, Any], code: str, field: str | None
) -> None:
    answer = await ask(ledger, pipelines, **wish)
    assert (answer["result"], answer["code"]) == ("refused", code)
    assert field is None or field in answer["fields"]
    assert await reader.runs() == []
    assert await reader.tenants() == []


async def test_a_tenant_must_be_known_unless_the_setting_says_create(ledger: Ledger, pipelines: Pipelines, ledger_dsn: str) -> None:
    strict = Pipelines((TOY,), Settings.model_validate({"ledger": {"dsn": ledger_dsn}}))
    refused = await ask(ledger, strict)
    assert refused["code"] == "unknown_tenant"
    assert "`tidemill tenants add acme`" in refused["sentence"]
    assert (await add_tenant(ledger, "acme", name="Acme", by="ada"))["result"] == "added"
    assert (await add_tenant(ledger, "acme", name="Other", by="ada"))["result"] == "there"
    assert (await ask(ledger, strict))["result"] == "run"


async def test_a_suspended_tenants_requests_are_refused_until_it_is_resumed(ledger: Ledger, pipelines: Pipelines) -> None:
    await add_tenant(ledger, "acme", name=None, by="ada")
    assert (await suspend_tenant(ledger, pipelines, "acme", by="ada"))["result"] == "suspended"
    assert (await suspend_tenant(ledger, pipelines, "acme", by="ada"))["result"] == "there"
    assert (await ask(ledger, pipelines))["code"] == "tenant_suspended"
    assert (await resume_tenant(ledger, pipelines, "acme", by="ada"))["result"] == "active"
    assert (await ask(ledger, pipelines))["result"] == "run"
    assert (await suspend_tenant(ledger, pipelines, "nobody", by="ada"))["code"] == "unknown_tenant"
    rows = await ledger.calls.fetch("select kind, data from journal where tenant_id = 'acme' and run_id is null order by seq")
    assert [(row["kind"], row["data"]["by"]) for row in rows] == [("tenant_added", "ada"), ("tenant_suspended", "ada"), ("tenant_active", "ada")]


async def test_a_run_can_be_cancelled_and_retried_again_and_again(ledger: Ledger, pipelines: Pipelines) -> None:
    run = UUID((await ask(ledger, pipelines))["run_id"])
    for round in (2, 3):
        assert (await cancel_run(ledger, pipelines, run, by="ada"))["result"] == "cancelled"
        assert (await cancel_run(ledger, pipelines, run, by="ada"))["code"] == "run_over"
        again = await retry_run(ledger, pipelines, run, by="ada")
        assert (again["result"], again["stage"], again["round"]) == ("reopened", "validate", round)
    assert (await retry_run(ledger, pipelines, run, by="ada"))["code"] == "run_not_over"


async def test_what_cannot_be_cancelled_or_retried_is_refused_by_name(ledger: Ledger, pipelines: Pipelines) -> None:
    assert (await cancel_run(ledger, pipelines, uuid4(), by="ada"))["code"] == "unknown_run"
    assert (await retry_run(ledger, pipelines, uuid4(), by="ada"))["code"] == "unknown_run"
    active = UUID((await ask(ledger, pipelines))["run_id"])
    waiting = UUID((await ask(ledger, pipelines))["run_id"])
    assert (await cancel_run(ledger, pipelines, waiting, by="ada"))["result"] == "cancelled"
    assert (await retry_run(ledger, pipelines, waiting, by="ada"))["active"] == str(active)
    await cancel_run(ledger, pipelines, active, by="ada")
    assert (await retry_run(ledger, pipelines, waiting, by="ada"))["code"] == "stage_not_reached"
    assert (await retry_run(ledger, pipelines, active, stage="nope", by="ada"))["code"] == "unknown_stage"
    assert (await retry_run(ledger, pipelines, active, stage="deploy", by="ada"))["code"] == "stage_not_reached"


@pytest.fixture
def neighbours() -> Neighbours:
    """The engine's jobs are done whenever somebody asks."""
    return Neighbours(finding={"status": "completed", "model_path": "m"})


@pytest.fixture
async def travel(ledger_dsn: str, neighbours: Neighbours) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (TOY,), neighbours, unknown_tenants="refuse")) as it:
        yield it


async def test_a_retry_from_a_stage_reuses_what_came_before(
    travel: Travel, neighbours: Neighbours, ledger: Ledger, pipelines: Pipelines, reader: Reader
) -> None:
    neighbours.fail["deploy"] = [GiveUp("no room", code="no_room")]
    run = UUID((await ask(ledger, pipelines))["run_id"])
    async with asyncio.timeout(30):
        while [step.state for step in (await reader.run(run)).steps] != ["done", "waiting"]:  # noqa: ASYNC110 - a look at the ledger
            await asyncio.sleep(0.02)
    await travel.wait_out()
    before = len(neighbours.calls)
    assert (await retry_run(ledger, pipelines, run, by="ada"))["stage"] == "deploy"
    [row] = await travel.over()
    assert row["state"] == "succeeded"
    assert neighbours.calls[before:] == [("deploy", f"{run}:deploy:2"), ("warm", f"{run}:warm:1")]


async def buried(reader: Reader) -> DeadRecord:
    """The only dead letter."""
    async with asyncio.timeout(30):
        while not (found := await reader.dead_letters()):  # noqa: ASYNC110 - a look at the ledger
            await asyncio.sleep(0.02)
    [letter] = found
    return await reader.dead_letter(letter.id)


async def test_a_dead_letter_is_redriven_once_whoever_asks(travel: Travel, ledger: Ledger, pipelines: Pipelines, reader: Reader) -> None:
    strict = Pipelines((TOY,), travel.settings)
    record = travel.request("acme", reason="by hand")
    letter = await buried(reader)
    still = await redrive(ledger, strict, letter)
    assert (still["result"], still["code"]) == ("refused", "unknown_tenant")
    assert (await reader.dead_letter(letter.letter.id)).letter.state == "open"

    await add_tenant(ledger, "acme", name=None, by="ada")
    answers = await asyncio.gather(*(redrive(ledger, strict, letter) for _ in range(4)))
    assert sorted(answer["result"] for answer in answers) == ["refused"] * 3 + ["run"]
    assert {answer["code"] for answer in answers if answer["result"] == "refused"} == {"letter_settled"}
    assert (await reader.dead_letter(letter.letter.id)).letter.state == "redriven"

    await travel.read(record)  # Kafka hands it over once more: it is known by its first identity
    assert len(await reader.runs()) == 1


async def test_a_redriven_completion_meets_the_run_that_waits_for_it(travel: Travel, ledger: Ledger, reader: Reader) -> None:
    strict = Pipelines((TOY,), travel.settings)
    travel.road.put("training.completed", b'{"tenant_id": "acme", "job_id": "job-1", "status": "completed", "model_path": "m"}')
    letter = await buried(reader)
    assert letter.letter.code == "unknown_tenant"
    await add_tenant(ledger, "acme", name=None, by="ada")
    answer = await redrive(ledger, strict, letter)
    assert (answer["result"], answer["fate"]) == ("recorded", "early")


async def test_a_letter_that_is_still_unreadable_stays_open(travel: Travel, ledger: Ledger, reader: Reader) -> None:
    travel.road.put("training.requested", b"{")
    letter = await buried(reader)
    answer = await redrive(ledger, Pipelines((TOY,), travel.settings), letter)
    assert (answer["result"], answer["code"]) == ("refused", "bad_json")
    assert len(await reader.dead_letters()) == 1


async def test_a_dropped_letter_is_settled_for_good(travel: Travel, ledger: Ledger, reader: Reader) -> None:
    travel.request("acme")
    letter = await buried(reader)
    assert (await drop(ledger, letter.letter.id))["result"] == "dropped"
    assert (await drop(ledger, letter.letter.id))["code"] == "letter_settled"
    assert (await redrive(ledger, Pipelines((TOY,), travel.settings), letter))["code"] == "letter_settled"
    assert await reader.dead_letters() == []
    assert [each.state for each in await reader.dead_letters(state=None)] == ["dropped"]


async def test_one_key_asks_for_one_pipelines_run(ledger: Ledger, ledger_dsn: str) -> None:
    pipelines = Pipelines((TOY, QUALITY), Settings.model_validate({"ledger": {"dsn": ledger_dsn}, "runtime": {"unknown_tenants": "create"}}))
    first = await ask(ledger, pipelines, request_key="nightly")
    other = await ask(ledger, pipelines, request_key="nightly", pipeline="quality")
    assert (other["result"], other["code"], other["run"]) == ("refused", "key_reused", first["run_id"])
