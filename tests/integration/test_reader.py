"""What CLI, API and pages read of a ledger on which real runs have ended, waited and been set aside."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from streams.ledger.queries import queries
from streams.ledger.reader import NotFound, Reader
from streams.ledger.rows import Run, Standing
from streams.ledger.versions import LedgerVersions
from streams.requests import cancel_run
from streams.stage import GiveUp
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def travel(ledger_dsn: str, neighbours: Neighbours) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (TOY,), neighbours), folds=False) as travel:
        yield travel


@pytest.fixture
def reader(travel: Travel) -> Reader:
    return Reader(travel.ledger.calls)


async def waiting(travel: Travel, reader: Reader, tenant: str = "acme") -> UUID:
    """A run of the tenant, once it waits for its job."""
    travel.request(tenant)
    async with asyncio.timeout(30):
        while True:
            for run in await reader.runs(tenant=tenant, limit=1):
                if [step.state for step in (await reader.run(run.run_id)).steps] == ["done", "waiting"]:
                    return run.run_id
            await asyncio.sleep(0.02)


async def call_back(travel: Travel, reader: Reader, run: UUID, tenant: str = "acme") -> None:
    job = (await reader.run(run)).steps[1].job_id
    completion = {"tenant_id": tenant, "job_id": job, "status": "completed", "model_path": f"models/{tenant}/x"}
    travel.road.put("training.completed", json.dumps(completion).encode())


async def test_every_question_has_an_answer_on_an_empty_ledger(reader: Reader) -> None:
    assert await reader.runs() == []
    assert await reader.tenants() == []
    assert await reader.dead_letters() == []
    assert await reader.gaps() == []
    assert await reader.run_counts() == {}
    assert (await reader.backlog()).outbox == 0
    assert [(worker.slot, worker.alive, worker.steps) for worker in await reader.workers()] == [(1, True, 0)]
    assert {"runs", "steps", "events"} <= set(queries())


async def test_a_runs_outcome_is_empty_until_it_is_over(travel: Travel, reader: Reader) -> None:
    run = await waiting(travel, reader)
    before = (await reader.run(run)).run
    assert (before.state, before.stage, before.outcome, before.finished_at) == ("running", "train", None, None)
    await call_back(travel, reader, run)
    await travel.over()
    after = (await reader.run(run)).run
    assert (after.state, after.outcome, after.code) == ("succeeded", "succeeded", None)
    assert after.finished_at is not None
    assert after.finished_at >= after.requested_at


async def test_a_waiting_step_says_for_how_long_on_what_job_and_when_it_is_asked_next(travel: Travel, reader: Reader) -> None:
    run = await waiting(travel, reader)
    validate, train = (await reader.run(run)).steps
    assert (validate.state, validate.output_type, train.state) == ("done", "training.validated", "waiting")
    assert train.job_id == f"job-{run}:train:1"
    assert train.deadline is not None
    assert train.started_at is not None
    assert timedelta(hours=5) < train.deadline - train.started_at < timedelta(hours=7)
    assert train.due_at - train.started_at > timedelta(seconds=50)
    assert train.waited is not None
    assert train.seconds is not None
    assert 0 <= train.waited <= train.seconds < 10
    assert validate.queued is not None
    assert 0 <= validate.queued < 5


async def test_a_failed_runs_code_and_reason_are_on_the_run_and_on_the_step(travel: Travel, neighbours: Neighbours, reader: Reader) -> None:
    neighbours.fail["validate"] = [GiveUp("the bucket is empty", code="no_data")]
    travel.request()
    [row] = await travel.over()
    detail = await reader.run(row["run_id"])
    assert (detail.run.outcome, detail.run.code) == ("failed", "no_data")
    assert detail.run.reason is not None
    assert "the bucket is empty" in detail.run.reason
    assert [(step.state, step.code) for step in detail.steps] == [("failed", "no_data")]
    assert await reader.run_counts() == {"failed": 1}
    since = detail.run.requested_at - timedelta(minutes=1)
    assert [run.run_id for run in await reader.runs_failed("no_data", since)] == [detail.run.run_id]
    assert await reader.runs_failed("other", since) == []
    assert await reader.runs_failed("no_data", since + timedelta(hours=1)) == []


async def test_a_failed_run_with_a_newer_one_needs_no_retry(travel: Travel, neighbours: Neighbours, reader: Reader) -> None:
    neighbours.fail["validate"] = [GiveUp("empty", code="no_data")]
    travel.request()
    [first] = await travel.over()
    await waiting(travel, reader)
    assert await reader.runs_failed("no_data", first["requested_at"] - timedelta(minutes=1)) == []


async def test_a_run_is_found_by_the_beginning_of_its_id(travel: Travel, reader: Reader) -> None:
    run = await waiting(travel, reader)
    for text in (str(run), str(run)[:6], str(run)[:10].upper(), run.hex[:12]):
        assert await reader.find_run(text) == run


async def test_a_beginning_that_fits_two_runs_or_none_is_named(travel: Travel, reader: Reader) -> None:
    low, high = UUID("aaaa0000-0000-4000-8000-000000000001"), UUID("aaaa0000-0000-4000-8000-000000000002")
    await waiting(travel, reader)
    for each in (low, high):
        await travel.rows(
            "insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, request, request_id, causes, version, requested_at)"
            " values ($1, 'acme', 'training', '1', 'failed', '{}', $1, 1, 1, now())", each,
        )  # fmt: skip
    assert await reader.find_run(str(low)) == low
    with pytest.raises(NotFound, match="more than one run begins with aaaa") as ambiguous:
        await reader.find_run("aaaa")
    assert ambiguous.value.code == "ambiguous_run"
    for text in ("ffffffffffff", "", "nonsense", "0" * 33, "'; drop table runs; --", "\x1b[2J"):
        with pytest.raises(NotFound) as unknown:
            await reader.find_run(text)
        assert unknown.value.code == "unknown_run"
        assert "\x1b" not in unknown.value.sentence


async def test_events_of_a_run_show_its_journal_and_what_was_set_aside(travel: Travel, reader: Reader) -> None:
    run = await waiting(travel, reader)
    await call_back(travel, reader, run)
    await travel.over()
    await call_back(travel, reader, run)
    async with asyncio.timeout(30):
        while not [each for each in await reader.events(run) if each.kind == "set_aside"]:  # noqa: ASYNC110 - a look at the ledger
            await asyncio.sleep(0.02)
    found = await reader.events(run)
    numbers = [each.seq for each in found if each.seq is not None]
    assert numbers == sorted(numbers)
    assert next(each.kind for each in found if each.topic == "training.completed") == "matched"
    [aside] = [each for each in found if each.kind == "set_aside"]
    assert (aside.topic, aside.code, aside.seq) == ("training.completed", "repeated", None)
    assert [each.topic for each in found if each.seq is not None][-1] == "run.finished"


async def test_tenants_come_with_their_last_run_and_the_version_that_serves(travel: Travel, reader: Reader) -> None:
    run = await waiting(travel, reader)
    await waiting(travel, reader, "globex")
    versions = LedgerVersions(travel.ledger.calls)
    for number in (1, 2):
        await versions.reserve("acme", run, number, model_path="m", index_path="i")
        await versions.mark_live("acme", number)
    acme, globex = await reader.tenants()
    assert (acme.tenant_id, acme.status, acme.last_run, acme.last_state, acme.live_version) == ("acme", "active", run, "running", 2)
    assert (globex.tenant_id, globex.live_version) == ("globex", None)
    assert [(each.number, each.state) for each in await reader.versions("acme")] == [(2, "live"), (1, "retired")]
    assert await reader.versions("globex") == []
    with pytest.raises(NotFound, match="there is no tenant nobody"):
        await reader.versions("nobody")


async def test_runs_are_filtered_by_tenant_state_and_number(travel: Travel, reader: Reader) -> None:
    for tenant in ("acme", "globex", "initech"):
        await waiting(travel, reader, tenant)
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 4)
    assert [run.tenant_id for run in await reader.runs(limit=2)] == ["acme", "initech"]
    assert [run.state for run in await reader.runs(tenant="acme")] == ["pending", "running"]
    assert [run.tenant_id for run in await reader.runs(state="running")] == ["initech", "globex", "acme"]
    assert await reader.runs(pipeline="other") == []
    assert await reader.run_counts("training") == {"pending": 1, "running": 3}


async def test_a_pipeline_says_whether_it_is_paused_when_it_is_due_and_how_the_last_run_ended(travel: Travel, reader: Reader) -> None:
    assert await reader.standing("training") == Standing(False, None, None, None, None, None)
    await waiting(travel, reader, "acme")
    [run] = await reader.runs()
    await cancel_run(travel.ledger, travel.runtime.pipelines, run.run_id, by="ann")
    [ended] = await reached(reader, "cancelled")
    insert = "insert into schedules (name, pipeline, cron, paused, next_due) values ($1, 'training', '0 2 * * *', $2, $3) returning 1"
    soon, later = travel.clock.now() + timedelta(hours=1), travel.clock.now() + timedelta(hours=2)
    await travel.rows(insert, "asleep", True, soon)
    await travel.rows(insert, "awake", False, later)
    await travel.rows("insert into pauses (pipeline, reason, paused_by, since) values ('training', 'upgrade', 'ann', now()) returning 1")
    assert await reader.standing("training") == Standing(True, later, run.run_id, "acme", "cancelled", ended.finished_at)
    assert await reader.standing("other") == Standing(False, None, None, None, None, None)


async def reached(reader: Reader, state: str) -> list[Run]:
    async with asyncio.timeout(30):
        while not (found := await reader.runs(state=state)):  # noqa: ASYNC110 - a look at the ledger
            await asyncio.sleep(0.05)
    return found


async def test_a_dead_letter_keeps_its_bytes_and_headers(travel: Travel, reader: Reader) -> None:
    travel.road.put("training.requested", b"\xff{", b"acme", [("ce_id", b"7"), ("x", b"\x00")])
    async with asyncio.timeout(30):
        while not (found := await reader.dead_letters()):  # noqa: ASYNC110 - a look at the ledger
            await asyncio.sleep(0.02)
    letter = await reader.dead_letter(await reader.find_dead_letter(str(found[0].id)[:8]))
    assert (letter.key, letter.value, letter.cut) == (b"acme", b"\xff{", False)
    assert [name for name, _ in letter.headers] == ["ce_id", "x"]
    assert (letter.letter.state, letter.letter.tenant_id, letter.letter.size) == ("open", "acme", 2)
    assert (await reader.backlog()).dead_letters == 1
    assert await reader.dead_letters(tenant="globex") == []
    assert await reader.dead_letters(code=letter.letter.code, tenant="acme") == found


async def test_open_gaps_are_shown(travel: Travel, reader: Reader) -> None:
    await travel.rows("select advance('training.requested', 1, 5, 6)")
    assert [(gap.topic, gap.partition, gap.first, gap.past) for gap in await reader.gaps()] == [("training.requested", 1, 0, 5)]
    assert (await reader.backlog()).gaps == 1
