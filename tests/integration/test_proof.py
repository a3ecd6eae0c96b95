"""Rows and journal of a real ledger: the fold comes to the rows after every kind of move, and forged rows are found."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.proof.check import Checked
from streams.proof.rebuild import Rebuilt, rebuild
from tests.integration.ledger_moves import Moves

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(180)]


@pytest.fixture
async def moves(ledger_dsn: str) -> AsyncIterator[Moves]:
    moves = await Moves.open(ledger_dsn)
    yield moves
    await moves.raw.close()


async def equal(moves: Moves) -> Checked:
    checked = await moves.check()
    assert checked.differences == []
    assert checked.journal_hash == checked.rows_hash
    return checked


async def rebuilt(moves: Moves) -> list[Rebuilt]:
    return [each async for each in rebuild(moves.raw)]


async def test_a_run_that_goes_well_folds_to_its_rows_after_every_move(moves: Moves) -> None:
    answer = await moves.request()
    await equal(moves)
    for _ in range(5):
        step = answer["step"]
        if step["stage"] == "train":
            await moves.wait(step, "j1")
            await equal(moves)
            answer = await moves.complete("acme", "j1")
        else:
            answer = await moves.done(step)
        await equal(moves)
    assert (await moves.run(step["run_id"]))["state"] == "succeeded"


async def test_retries_outages_and_lost_leases_fold_to_the_rows(moves: Moves) -> None:
    step = (await moves.request())["step"]
    await moves.commit(step, "retry", after=5, code="slow", error="it was slow")
    await equal(moves)
    [step] = await moves.claim()
    await equal(moves)
    await moves.commit(step, "retry", after=5, cost=0, code="s3_down", error="it is down", waiting_for="s3")
    assert (await moves.step(step["run_id"], "validate"))["waiting_for"] == "s3"
    await equal(moves)
    [step] = await moves.claim()
    await moves.raw.execute("update workers set lease_until = '-infinity'")
    await moves.raw.fetchval("select reap($1)", moves.tick())
    await equal(moves)
    await moves.join()
    [step] = await moves.claim()
    await moves.commit(step, "released")
    await equal(moves)
    [step] = await moves.claim()
    await moves.commit(step, "failed", final="timed_out", code="late", error="too late")
    await equal(moves)
    assert (await moves.run(step["run_id"]))["state"] == "timed_out"


async def test_completions_early_late_repeated_and_of_failed_jobs_fold_to_the_rows(moves: Moves) -> None:
    step = (await moves.done((await moves.request())["step"]))["step"]
    await moves.complete("acme", "early")
    await equal(moves)
    step = (await moves.wait(step, "early"))["step"]
    assert step["stage"] == "index"
    await equal(moves)
    await moves.complete("acme", "early")
    await equal(moves)

    step = (await moves.done((await moves.request("globex"))["step"]))["step"]
    await moves.wait(step, "bad")
    failed = await moves.complete("globex", "bad", failed=True)
    await equal(moves)
    await moves.commit(failed["step"], "retry", next_round=True, after=1, code="job_failed", error="no memory")
    assert (await moves.step(step["run_id"], "train"))["round"] == 2
    await equal(moves)
    await moves.complete("globex", "bad", failed=True)
    step = next(each for each in await moves.claim() if each["tenant_id"] == "globex")
    await moves.wait(step, "bad too")
    await moves.complete("globex", "bad too", failed=True, worker=False)
    await equal(moves)
    step = next(each for each in await moves.claim() if each["tenant_id"] == "globex")
    await moves.commit(step, "failed", code="job_failed", error="no memory")
    await moves.complete("globex", "bad too")
    await equal(moves)


async def test_looking_after_a_job_changes_nothing_that_is_folded(moves: Moves) -> None:
    step = (await moves.done((await moves.request())["step"]))["step"]
    await moves.wait(step, "j1")
    [step] = await moves.claim()
    await equal(moves)
    await moves.commit(step, "waiting", after=60, code="ml_engine_away", error="it is away", waiting_for="ml_engine")
    await equal(moves)
    [step] = await moves.claim()
    found = {"job_id": "j1", "engine": "ml", "output": {"job_id": "j1"}, "output_type": "training.completed"}
    await moves.commit(step, "done", event_id=moves.worker, **found)
    await equal(moves)


async def test_merged_requests_and_their_follow_up_fold_to_the_rows(moves: Moves) -> None:
    first = await moves.request(publish=True)
    for number in range(3):
        await moves.request(publish=number == 1, worker=False, number=number)
        await equal(moves)
    await moves.commit(first["step"], "failed", code="no_data", error="there is none")
    checked = await equal(moves)
    assert checked.runs == 2
    [step] = await moves.claim()
    assert step["input"]["number"] == 2


async def test_cancels_of_every_kind_fold_to_the_rows(moves: Moves) -> None:
    pending = (await moves.request(), await moves.request())[1]
    await moves.cancel(pending["run_id"])
    await equal(moves)
    ready = await moves.request("globex", worker=False)
    await moves.cancel(ready["run_id"])
    await equal(moves)
    tried = (await moves.request("initech"))["step"]
    await moves.commit(tried, "retry", after=600, code="slow", error="it was slow")
    await moves.cancel(tried["run_id"])
    await equal(moves)
    running = (await moves.request("umbrella"))["step"]
    await moves.cancel(running["run_id"])
    await equal(moves)
    await moves.done(running)
    await equal(moves)
    waits = (await moves.done((await moves.request("hooli"))["step"]))["step"]
    await moves.wait(waits, "j1")
    await moves.cancel(waits["run_id"])
    await equal(moves)
    await moves.complete("hooli", "j1", failed=True)
    await equal(moves)
    assert (await moves.run(running["run_id"]))["state"] == "cancelled"


async def test_a_reopened_run_folds_to_the_rows_round_after_round(moves: Moves) -> None:
    run = str((await moves.whole())["outbox"][0]["run_id"])
    await equal(moves)
    await moves.reopen(run, "index")
    await equal(moves)
    [step] = await moves.claim()
    step = (await moves.done(step))["step"]
    await equal(moves)
    await moves.commit(step, "failed", code="unhealthy", error="it is unhealthy")
    await moves.reopen(run, None)
    await equal(moves)
    assert (await moves.step(run, "deploy"))["round"] == 3


async def test_a_skipped_stage_folds_to_a_run_with_a_warning(moves: Moves) -> None:
    step = (await moves.whole(upto="deploy"))["step"]
    await moves.commit(step, "skipped", code="cache_full", error="no room", event_id=moves.worker)
    await equal(moves)
    assert (await moves.run(step["run_id"]))["state"] == "succeeded_with_warnings"


FORGERIES = {
    "a run's state": ("update runs set state = 'failed'", "run_differs", "state: journal running, rows failed"),
    "a run's reason": ("update runs set reason = 'because'", "run_differs", "reason: journal nothing, rows because"),
    "a step's output": ("update steps set output = '{}' where stage = 'validate'", "step_differs", "output: "),
    "a step's round": ("update steps set round = 9 where stage = 'train'", "step_differs", "round: journal 1, rows 9"),
    "a run taken away": ("delete from runs", "run_missing", "the journal has it"),
    "a step taken away": ("delete from steps where stage = 'train'", "step_missing", "the journal has it"),
    "a head": ("update pipeline_heads set active_run = null", "head_missing", "the journal has it"),
    "a run that never was": (
        "insert into runs select (jsonb_populate_record(r, jsonb_build_object('run_id', gen_random_uuid()))).* from runs r",
        "run_unknown",
        "the rows have it",
    ),
    "an entry taken from the middle": ("delete from journal where seq = 2", "journal_gap", "entries 2 to 2 are missing"),
    "an entry taken from the end": ("delete from journal where seq = 3", "journal_end", "its last entry is 2"),
    "an entry changed": ("update journal set data = jsonb_set(data, '{attempt}', '7') where seq = 2", "journal_wrong_round", "attempt 1"),
    "an entry doubled": (
        "insert into journal select tenant_id, 4, at, run_id, kind, null, null, causation, data from journal where seq = 3",
        "journal_step_not_open",
        "waits already",
    ),
}


@pytest.mark.parametrize(("sql", "code", "said"), FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forgery_is_found_and_named(moves: Moves, sql: str, code: str, said: str) -> None:
    await moves.wait((await moves.done((await moves.request())["step"]))["step"], "j1")
    await equal(moves)
    await moves.raw.execute(sql)
    checked = await moves.check()
    assert [each.tenant_id for each in checked.differences] == ["acme"] * len(checked.differences)
    assert any(each.code == code and said in each.sentence for each in checked.differences), checked.differences


async def test_rows_that_are_gone_come_back_as_they_were(moves: Moves) -> None:
    await moves.whole()
    await moves.wait((await moves.done((await moves.request("globex"))["step"]))["step"], "j1")
    await moves.request("globex")
    before = await equal(moves)
    for table in ("runs", "steps", "pipeline_heads"):
        await moves.raw.execute(f"delete from {table}")
    assert not (await moves.check()).equal
    assert all(each.done for each in await rebuilt(moves))
    after = await equal(moves)
    assert (after.rows_hash, after.runs) == (before.rows_hash, 3)


async def test_an_executor_that_held_a_step_over_a_rebuild_is_refused_and_the_step_is_done_again(moves: Moves) -> None:
    held = (await moves.request())["step"]
    await moves.raw.execute("delete from steps")
    [one] = await rebuilt(moves)
    assert (one.done, one.reopened) == (True, 1)
    assert (await moves.done(held))["result"] == "lost"
    [again] = await moves.claim()
    assert (again["fence"] > held["fence"], again["round"], again["attempt"]) == (True, held["round"], held["attempt"])
    assert (await moves.done(held))["result"] == "lost"
    assert (await moves.done(again))["result"] == "next"
    await equal(moves)


async def test_a_waiting_step_is_asked_after_at_once_and_its_completion_still_counts(moves: Moves) -> None:
    await moves.wait((await moves.done((await moves.request())["step"]))["step"], "j1")
    await rebuilt(moves)
    assert (await moves.complete("acme", "j1"))["step"]["stage"] == "index"
    await equal(moves)


async def test_a_paused_pipeline_stays_paused_and_limits_of_waiting_steps_stay_held(moves: Moves) -> None:
    step = (await moves.done((await moves.request())["step"]))["step"]
    await moves.wait(step, "j1")
    await moves.raw.execute("update pipeline_heads set paused = true")
    await moves.raw.execute(
        "insert into limit_slots (name, n, run_id, stage) values ('ml', 1, $1, 'train'), ('ml', 2, $1, 'validate')", step["run_id"]
    )
    await rebuilt(moves)
    assert await moves.raw.fetchval("select paused from pipeline_heads")
    assert [row["stage"] for row in await moves.raw.fetch("select stage from limit_slots")] == ["train"]


async def test_a_journal_with_a_hole_leaves_its_tenant_as_it_is_and_the_others_are_rebuilt(moves: Moves) -> None:
    await moves.whole()
    await moves.whole("globex")
    await moves.raw.execute("delete from journal where tenant_id = 'acme' and seq = 3")
    await moves.raw.execute("update runs set reason = 'forged'")
    acme, globex = await rebuilt(moves)
    assert (acme.done, acme.differences[0].code, globex.done) == (False, "journal_gap", True)
    states = await moves.raw.fetch("select tenant_id, reason from runs order by tenant_id")
    assert [tuple(row) for row in states] == [("acme", "forged"), ("globex", None)]


async def test_rebuilding_one_tenant_touches_no_other(moves: Moves) -> None:
    await moves.whole()
    await moves.whole("globex")
    await moves.raw.execute("update runs set reason = 'forged'")
    assert [each.tenant_id async for each in rebuild(moves.raw, "globex")] == ["globex"]
    assert {each.tenant_id for each in (await moves.check()).differences} == {"acme"}


async def tidemill(dsn: str, *args: str) -> tuple[int, str, str]:
    """The command, as somebody types it."""
    environment = os.environ | {"TIDEMILL_LEDGER__DSN": dsn}
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "streams.cli", *args]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe, cwd=ROOT)
    said, complained = await process.communicate()
    return process.returncode or 0, said.decode(), complained.decode()


async def test_the_command_checks_refuses_while_workers_live_repairs_and_checks_again(moves: Moves, ledger_dsn: str) -> None:
    await moves.whole()
    status, said, _ = await tidemill(ledger_dsn, "rebuild", "--check")
    assert (status, said.startswith("equal: 1 tenants, 1 runs")) == (0, True)
    await moves.raw.execute("update runs set state = 'failed'")
    status, said, _ = await tidemill(ledger_dsn, "rebuild", "--check", "--json")
    found = json.loads(said)
    assert (status, found["equal"], found["differences"][0]["sentence"]) == (1, False, "state: journal succeeded, rows failed")

    status, _, complained = await tidemill(ledger_dsn, "rebuild")
    assert (status, complained.startswith("workers_alive: 1 workers are alive")) == (1, True)
    status, said, _ = await tidemill(ledger_dsn, "rebuild", "--online", "--json")
    [one] = json.loads(said)
    assert (status, one["tenant_id"], one["done"], one["runs"], one["before"] == one["after"]) == (0, "acme", True, 1, False)
    status, said, _ = await tidemill(ledger_dsn, "rebuild", "--check", "--tenant", "acme")
    assert status == 0

    await moves.raw.execute("delete from journal where seq = 2")
    status, said, _ = await tidemill(ledger_dsn, "rebuild", "--online")
    assert (status, "left     acme: its journal is not whole (gap: " in said) == (1, True)
    status, _, complained = await tidemill(ledger_dsn, "rebuild", "--check", "--tenant", "nobody")
    assert (status, complained.startswith("unknown_tenant: ")) == (1, True)
    status, _, complained = await tidemill(ledger_dsn, "prove")
    assert (status, complained.startswith("wrong_usage: ")) == (2, True)
    status, _, complained = await tidemill("postgresql://nobody@127.0.0.1:1/nothing", "verify")
    assert (status, complained.startswith("ledger_away: ")) == (3, True)
