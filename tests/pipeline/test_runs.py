"""A request's way through the real runtime and a real ledger, Kafka played by a list."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.cloudevents import decode
from schemas.context import Origin
from schemas.training import TrainingRequested, TrainingValidated
from streams import names
from streams.stage import GiveUp, Pipeline, TryAgain, stage
from streams.step import Effect, current
from tests.pipeline.test_batches import add
from tests.pipeline.toy import RETRY, TOY, Neighbours, train, validate
from tests.travel import CLUSTER, Travel, travelling

ALL = ["validate", "train", "index", "deploy", "warm"]


@pytest.fixture(params=[True, False], ids=["eager", "through-kafka"])
async def travel(ledger_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (TOY,), Neighbours(), eager=request.param)) as travel:
        yield travel


def use(travel: Travel) -> Neighbours:
    return travel.services  # type: ignore[no-any-return]


async def call_back(travel: Travel, tenant: str = "acme", **changes: Any) -> None:
    """Wait until a run waits for its job, then complete the job on Kafka as the engine would."""
    runs = await travel.until(lambda runs: any(run["stage"] == "train" and run["finished_at"] is None for run in runs))
    run = next(run for run in runs if run["stage"] == "train" and run["finished_at"] is None)
    await travel.until(lambda _: [key for name, key in use(travel).calls if name == "train"])
    waiting = await travel.see("select job from steps where run_id = $1 and stage = 'train' and state = 'waiting'", run["run_id"])
    job = json.loads(waiting[0]["job"])["job_id"]
    completion = {"tenant_id": tenant, "job_id": job, "status": "completed", "model_path": f"models/{tenant}/x"} | changes
    travel.road.put("training.completed", json.dumps(completion).encode(), tenant.encode())


async def test_a_request_goes_all_the_way(travel: Travel) -> None:
    travel.request()
    await call_back(travel)
    [run] = await travel.over()
    assert run["state"] == "succeeded"
    assert [name for name, _ in use(travel).calls] == ALL
    assert len({key for _, key in use(travel).calls}) == 5
    [finished] = await travel.events("run.finished")
    assert finished["outcome"] == "succeeded"
    for topic in ("training.validated", "training.started", "index.built", "model.deployed", "cache.warmed", "run.accepted"):
        assert [event["run_id"] for event in travel.road.events(topic)] == [str(run["run_id"])]


async def test_a_callback_ends_a_run_whose_last_stage_waits(ledger_dsn: str) -> None:
    pipeline = Pipeline("training", (validate, train), version="1")
    async with travelling(Travel(ledger_dsn, (pipeline,), Neighbours())) as travel:
        travel.request()
        await call_back(travel)
        [run] = await travel.over()
        assert (run["state"], await travel.rows("select * from dead_letters")) == ("succeeded", [])


async def test_the_journal_is_the_same_with_eager_hand_over_and_without(travel: Travel) -> None:
    travel.request()
    await call_back(travel)
    [run] = await travel.over()
    told = [
        (entry["kind"], json.loads(entry["data"]).get("stage"), json.loads(entry["data"]).get("state"))
        for entry in await travel.journal(run["run_id"])
    ]
    assert told == [
        ("accepted", None, None),
        ("step", "validate", "done"),
        ("step", "train", "waiting"),
        ("step", "train", "done"),
        ("step", "index", "done"),
        ("step", "deploy", "done"),
        ("step", "warm", "done"),
        ("finished", None, None),
    ]


async def test_requests_during_a_run_become_one_follow_up_with_all_causes(travel: Travel) -> None:
    travel.request()
    await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    for number in range(499):
        travel.request(reason=f"again {number}")
    await travel.until(lambda runs: len(runs) == 2 and runs[1]["causes"] == 499, within=60)
    await call_back(travel)
    await travel.until(lambda runs: runs[0]["finished_at"] and runs[1]["state"] == "running")
    await call_back(travel)
    runs = await travel.over(2)
    assert [(run["state"], run["causes"]) for run in runs] == [("succeeded", 1), ("succeeded", 499)]


async def test_a_failed_attempt_is_tried_again_after_its_wait_under_the_same_key(travel: Travel) -> None:
    use(travel).fail["validate"] = [TryAgain("the store stutters", code="s3_slow")]
    travel.request()
    await travel.until(lambda _: len(use(travel).calls) == 1)
    [step] = await travel.see(
        "select state, attempt, code, due_at - ready_at as wait from steps where stage = 'validate' and state = 'ready' and attempt = 2"
    )
    assert (step["state"], step["attempt"], step["code"]) == ("ready", 2, "s3_slow")
    assert timedelta(minutes=5) <= step["wait"] < timedelta(minutes=6)
    travel.clock.ahead = timedelta(minutes=6)
    await call_back(travel)
    [run] = await travel.over()
    assert run["state"] == "succeeded"
    keys = [key for name, key in use(travel).calls if name == "validate"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_a_stage_that_gives_up_ends_the_run_with_its_code(travel: Travel) -> None:
    use(travel).fail["validate"] = [GiveUp("there is no data", code="no_data")]
    travel.request()
    [run] = await travel.over()
    assert (run["state"], run["code"], run["reason"]) == ("failed", "no_data", "there is no data")
    [finished] = await travel.events("run.finished")
    assert (finished["outcome"], finished["code"]) == ("failed", "no_data")


async def test_a_warm_up_that_fails_leaves_the_run_succeeded_with_warnings(travel: Travel) -> None:
    use(travel).fail["warm"] = [GiveUp("redis is full", code="cache_full")]
    travel.request()
    await call_back(travel)
    [run] = await travel.over()
    assert (run["state"], run["warnings"], run["code"]) == ("succeeded_with_warnings", 1, "cache_full")


async def test_a_failed_job_is_started_again_in_the_next_round_under_another_key(travel: Travel) -> None:
    travel.request()
    await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'")
    await travel.rows("update steps set takeovers = 7 where stage = 'train'")  # leases that were lost in the first round
    await call_back(travel, status="failed", error="out of memory")
    [step] = await travel.see("select takeovers from steps where stage = 'train' and round = 2 and state = 'ready'")
    assert step["takeovers"] == 0
    travel.clock.ahead = timedelta(minutes=6)
    await call_back(travel)
    [run] = await travel.over()
    assert run["state"] == "succeeded"
    assert [key.rsplit(":", 1)[1] for name, key in use(travel).calls if name == "train"] == ["1", "2"]


async def test_a_completion_of_an_older_round_is_set_aside(travel: Travel) -> None:
    travel.request()
    await call_back(travel, status="failed", error="out of memory")
    await travel.see("select 1 from steps where stage = 'train' and round = 2")
    first = f"job-{use(travel).calls[1][1]}"
    travel.road.put("training.completed", json.dumps({"tenant_id": "acme", "job_id": first, "status": "completed"}).encode())
    seen = await travel.see("select fate, code from inbox where topic = 'training.completed' and fate = 'set_aside'")
    assert seen[0]["code"] == "already_completed"
    assert (await travel.runs())[0]["state"] == "running"


async def test_a_completion_that_comes_before_its_job_id_is_kept_until_then(travel: Travel) -> None:
    cause = travel.request()
    received = decode(None, cause.value, [], Origin(CLUSTER, cause.topic, cause.partition, cause.offset, cause.timestamp_ms))
    run = names.run_id("training", "acme", received.meta.id)
    travel.road.put(
        "training.completed", json.dumps({"tenant_id": "acme", "job_id": f"job-{run}:train:1", "status": "completed", "model_path": "m"}).encode()
    )
    [row] = await travel.over()
    assert row["state"] == "succeeded"


async def test_somebody_elses_completion_changes_nothing(travel: Travel) -> None:
    travel.request("acme")
    travel.request("globex")
    await travel.until(lambda runs: len(runs) == 2 and all(run["stage"] == "train" for run in runs))
    waiting = await travel.see("select tenant_id, job from steps where state = 'waiting'", rows=2)
    job = next(json.loads(row["job"])["job_id"] for row in waiting if row["tenant_id"] == "acme")
    travel.road.put("training.completed", json.dumps({"tenant_id": "globex", "job_id": job, "status": "completed", "model_path": "m"}).encode())
    seen = await travel.see("select code, run_id from inbox where fate = 'set_aside'")
    assert seen == [{"code": "foreign_tenant", "run_id": None}]
    assert {run["stage"] for run in await travel.runs()} == {"train"}


@pytest.mark.parametrize("said", [[], [("ce_source", b"tidemill"), ("ce_id", b"0190a0e0-0000-7000-8000-000000000000")]], ids=["bare", "ours"])
async def test_headers_that_nobody_can_store_keep_no_record_from_its_dead_letter(travel: Travel, said: list[Any]) -> None:
    headers: list[Any] = [("x-null", None), ("x\0nul", b"1"), *said]
    await travel.read(travel.road.put("training.requested", b"{not json", b"acme", headers))
    await travel.runtime.inbox.flush()
    [letter] = await travel.see("select code, headers from dead_letters")
    assert letter["code"] == "bad_json"
    assert [name for name, _ in json.loads(letter["headers"])] == ["x\ufffdnul", *(name for name, _ in said)]


async def test_a_refused_record_counts_as_read_only_with_its_dead_letter(travel: Travel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between the two leaves an offset that is read again, though Faust may pass over it."""

    async def dies(*_: Any) -> None:
        raise RuntimeError("killed before the dead letter is written")

    completion = {"job_id": "j", "status": "completed", "model_path": "m"}
    with monkeypatch.context() as patch:
        patch.setattr(travel.runtime.inbox, "bury", dies)
        travel.road.readers.remove(travel.read)
        record = travel.road.put("training.completed", json.dumps({"tenant_id": "stranger"} | completion).encode(), b"stranger")
        with pytest.raises(RuntimeError):
            await travel.read(record)
        await add(travel, "acme")
        after = travel.road.put("training.completed", json.dumps({"tenant_id": "acme"} | completion).encode(), b"acme")
        await travel.read(after)
    travel.road.readers.append(travel.read)
    [gap] = await travel.see("select first, past from gaps where topic = 'training.completed' and state = 'open'")
    assert (gap["first"], gap["past"]) == (record.offset, record.offset + 1)
    await travel.read(record)
    assert await travel.rows("select code from dead_letters") == [{"code": "unknown_tenant"}]
    assert await travel.rows("select 1 from gaps where state = 'open'") == []
    assert await travel.rows("select next from offsets where topic = 'training.completed'") == [{"next": after.offset + 1}]


async def test_the_watcher_finds_what_nobody_called_back(travel: Travel) -> None:
    travel.request()
    await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    await travel.see("select 1 from steps where state = 'waiting'")
    use(travel).finding = {"status": "completed", "model_path": "models/acme/x"}
    travel.clock.ahead = timedelta(minutes=2)
    [run] = await travel.over()
    assert run["state"] == "succeeded"
    assert [event["status"] for event in await travel.events("training.completed")] == ["completed"]


async def test_a_job_that_never_ends_times_out_and_is_asked_to_cancel(travel: Travel) -> None:
    travel.request()
    await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    await travel.see("select 1 from steps where state = 'waiting'")
    travel.clock.ahead = timedelta(hours=6, minutes=1)
    [run] = await travel.over()
    assert (run["state"], run["code"]) == ("timed_out", "job_deadline")
    assert len(use(travel).cancelled) == 1


async def test_a_completion_that_lies_unread_at_the_deadline_is_waited_for(travel: Travel) -> None:
    """The engine cannot be asked, and it has long said on Kafka how the job ended."""
    use(travel).fail["watch"] = [TryAgain("the engine is away", code="ml_engine_down", waiting_for="ml_engine")] * 1000
    travel.request()
    travel.unread.add("training.completed")
    await call_back(travel)
    travel.clock.ahead = timedelta(hours=6, minutes=1)
    [step] = await travel.see("select state, waiting_for from steps where code = 'completions_unread'")
    assert (step["state"], step["waiting_for"]) == ("waiting", "kafka")
    asked = len(use(travel).calls)
    await asyncio.sleep(1)
    assert len(use(travel).calls) <= asked + 1  # soon again, not at once
    assert ([run["state"] for run in await travel.runs()], use(travel).cancelled) == (["running"], [])
    travel.unread.clear()
    await travel.read(travel.road.log["training.completed"][0])
    [run] = await travel.over()
    assert run["state"] == "succeeded"


async def test_a_job_past_its_deadline_times_out_once_all_completions_are_read(travel: Travel) -> None:
    travel.request()
    travel.unread.add("training.completed")
    await travel.see("select 1 from steps where state = 'waiting'")
    travel.clock.ahead = timedelta(hours=6, minutes=1)
    await travel.see("select 1 from steps where code = 'completions_unread'")
    travel.unread.clear()
    [run] = await travel.over()
    assert (run["state"], run["code"]) == ("timed_out", "job_deadline")
    assert len(use(travel).cancelled) == 1


async def test_the_same_event_read_again_makes_no_second_run(travel: Travel) -> None:
    record = travel.request()
    await call_back(travel)
    await travel.over()
    await travel.read(record)
    await travel.read(record)
    assert len(await travel.runs()) == 1
    assert len(use(travel).calls) == 5


async def test_what_kafka_does_not_take_stays_in_the_outbox_and_goes_out_later(travel: Travel) -> None:
    if not travel.settings.runtime.eager:
        return  # nothing moves without Kafka then
    travel.road.down = True
    await travel.read(travel.request())
    await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    await travel.see("select 1 from steps where state = 'waiting'")
    assert travel.road.events("training.validated") == []
    travel.road.down = False
    await call_back(travel)
    await travel.over()
    assert len(await travel.events("training.validated")) == 1
    assert len(travel.road.events("training.started")) == 1


async def test_a_bad_record_is_one_dead_letter_and_another_in_its_place_on_a_new_topic_or_cluster_is_one_more(
    travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = travel.road.put("training.requested", b"no JSON", b"acme")
    await travel.see("select 1 from dead_letters")
    await travel.read(record)  # delivered again
    assert len(await travel.rows("select 1 from dead_letters")) == 1
    await travel.read(record._replace(timestamp_ms=record.timestamp_ms + 1, value=b"nor this"))
    monkeypatch.setattr(travel.runtime.inbox, "_cluster", "another-cluster")
    await travel.read(record._replace(value=b"nor that"))
    buried = await travel.rows("select value from dead_letters order by at")
    assert [row["value"] for row in buried] == [b"no JSON", b"nor this", b"nor that"]
    await travel.see("select 1 where not exists (select 1 from outbox)")
    assert {record.value for record in travel.road.log["dead.letters"]} == {b"no JSON", b"nor this", b"nor that"}


@stage(retry=RETRY)
async def heard(event: TrainingRequested, use: Neighbours) -> TrainingValidated:
    """Hear an answer, then wait for ever for another."""
    step = current.get()
    assert step is not None
    step.effects.append(Effect(step.key, "POST /api/v1/heard", 202, bytes(32), bytes(32), {"job_id": "job-1"}, datetime.now(UTC)))
    use.call("heard")
    await asyncio.Event().wait()
    raise AssertionError("nobody tells more")


async def test_a_step_that_is_cut_off_at_the_end_of_a_drain_is_given_back_with_the_answers_it_heard(ledger_dsn: str) -> None:
    pipeline = Pipeline("training", (heard,), version="1")
    async with travelling(Travel(ledger_dsn, (pipeline,), Neighbours())) as travel:
        travel.request()
        await travel.until(lambda _: use(travel).calls)
        await travel.runtime.executor.drain(0.1)
        assert await travel.rows("select state, worker, attempt from steps") == [{"state": "ready", "worker": None, "attempt": 1}]
        [(_, key)] = use(travel).calls
        answers = await travel.rows("select key, command, status, reply from effects")
        assert answers == [{"key": key, "command": "POST /api/v1/heard", "status": 202, "reply": '{"job_id": "job-1"}'}]
