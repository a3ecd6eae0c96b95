"""The fold by examples: what a journal comes to, and which entries it refuses by name."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from schemas.states import RunState, StepState
from streams.fold import fold
from streams.folded import Comparable, Entry, FoldError, State, comparable, state_hash
from tests.unit.journals import BEGIN, Journal, renumbered


@pytest.fixture
def journal() -> Journal:
    return Journal()


def a_whole_run(journal: Journal) -> UUID:
    run = journal.request()
    journal.done(run)
    journal.wait(run)
    for _ in range(3):
        journal.done(run)
    return run.run_id


def refusal(entries: list[Entry]) -> FoldError:
    with pytest.raises(FoldError) as caught:
        fold(entries)
    return caught.value


def test_a_run_that_went_well_is_succeeded_with_every_step_done(journal: Journal) -> None:
    run_id = a_whole_run(journal)
    state = fold(journal.entries)
    run = state.runs[run_id]
    assert (run.state, run.stage, run.version, run.finished_at) == ("succeeded", "warm", len(journal.entries), journal.entries[-1].at)
    assert [step.state for step in state.steps.values()] == [StepState.DONE] * 4
    assert state.steps[run_id, "train"].job == {"job_id": "j2", "x": None}
    assert state.steps[run_id, "train"].limit_name == "ml_engine"
    assert state.steps[run_id, "index"].input == {"stage": 1, "run_id": str(run_id)}
    assert state.heads["training"].active is None


def test_requests_meanwhile_are_one_follow_up_whose_newest_request_counts(journal: Journal) -> None:
    run = journal.request()
    follow_up = journal.request()
    journal.request(publish=True)
    state = fold(journal.entries)
    assert (state.heads["training"].active, state.heads["training"].pending) == (run.run_id, follow_up.run_id)
    assert (state.runs[follow_up.run_id].causes, state.runs[follow_up.run_id].state) == (2, RunState.PENDING)
    assert state.runs[follow_up.run_id].request_id == journal.entries[-2].event_id
    journal.fail(run)
    state = fold(journal.entries)
    assert (state.heads["training"].active, state.heads["training"].pending) == (follow_up.run_id, None)
    assert state.steps[follow_up.run_id, "validate"].input == state.runs[follow_up.run_id].request


def test_a_failed_job_leaves_its_failure_until_the_next_round_begins(journal: Journal) -> None:
    run = journal.request()
    journal.wait(run)
    journal.job_fails(run)
    step = fold(journal.entries).steps[run.run_id, "validate"]
    assert (step.state, step.output, step.job is not None) == (StepState.READY, {"status": "failed"}, True)
    journal.retry(run, next_round=True)
    step = fold(journal.entries).steps[run.run_id, "validate"]
    assert (step.round, step.attempt, step.output, step.job, step.waiting_at) == (2, 2, None, None, None)


def test_a_reopened_run_begins_the_next_round_and_voids_the_later_stages(journal: Journal) -> None:
    run_id = a_whole_run(journal)
    journal.reopen(journal.runs[run_id], 1)
    state = fold(journal.entries)
    assert (state.runs[run_id].state, state.runs[run_id].finished_at, state.runs[run_id].warnings) == (RunState.RUNNING, None, 0)
    assert [(step.stage, step.state, step.round, step.code) for step in state.steps.values()] == [
        ("validate", StepState.DONE, 1, None),
        ("train", StepState.READY, 2, None),
        ("index", StepState.CANCELLED, 1, "reopened"),
        ("warm", StepState.CANCELLED, 1, "reopened"),
    ]
    journal.done(journal.runs[run_id])
    assert fold(journal.entries).steps[run_id, "index"].round == 2


def test_entries_about_the_tenant_alone_change_no_run(journal: Journal) -> None:
    a_whole_run(journal)
    before = fold(journal.entries)
    journal.tenant_note()
    after = fold(journal.entries)
    assert (after.runs, after.steps, after.seq) == (before.runs, before.steps, before.seq + 1)


def test_an_empty_journal_is_an_empty_state() -> None:
    assert fold([]) == State()


def test_leases_and_clocks_are_not_part_of_the_state(journal: Journal) -> None:
    run = journal.request()
    row = dict(vars(fold(journal.entries).steps[run.run_id, "validate"]))
    row |= {"worker": None, "fence": 1, "due_at": BEGIN, "takeovers": 0, "waiting_for": None}
    claimed = {"state": "running", "worker": uuid4(), "fence": 7, "due_at": BEGIN + timedelta(1), "takeovers": 3, "started_at": BEGIN}
    outage = {"waiting_for": "s3", "code": "s3_down", "error": "it is down"}
    assert comparable(row) == comparable(row | claimed | outage)
    assert comparable(row) != comparable(row | {"round": 2})


def test_a_finished_steps_error_and_times_are_part_of_the_state(journal: Journal) -> None:
    run = journal.request()
    journal.fail(run)
    row = vars(fold(journal.entries).steps[run.run_id, "validate"])
    for name, other in {"code": "x", "error": "x", "started_at": None, "finished_at": BEGIN}.items():
        assert comparable(row) != comparable(row | {name: other})


def test_the_hash_is_of_the_state_and_not_of_the_order_it_was_read_in(journal: Journal) -> None:
    for pipeline in ("training", "quality"):
        journal.request(pipeline)
    state = fold(journal.entries)
    whole = Comparable.of_state(state)
    turned = Comparable(whole.seq, dict(reversed(whole.runs.items())), dict(reversed(whole.steps.items())), whole.heads)
    assert turned.hash() == state_hash(state)
    assert state_hash(fold(journal.entries[:-1])) != state_hash(state)


def test_a_missing_entry_is_named_by_its_number(journal: Journal) -> None:
    a_whole_run(journal)
    error = refusal(journal.entries[:3] + journal.entries[5:])
    assert (error.code, error.seq, error.tenant_id) == ("gap", 6, "acme")
    assert "entries 4 to 5 are missing" in str(error)


def test_an_entry_of_another_tenant_is_refused(journal: Journal) -> None:
    a_whole_run(journal)
    assert refusal([*journal.entries[:2], replace(journal.entries[2], tenant_id="globex")]).code == "foreign_tenant"


def test_the_start_of_a_follow_up_cannot_be_left_out(journal: Journal) -> None:
    run = journal.request()
    journal.request()
    journal.fail(run)
    journal.tenant_note()
    kept = [entry for entry in journal.entries if entry.kind != "started"]
    assert refusal(renumbered(kept)).code == "entry_missing"


def test_a_journal_that_ends_inside_a_transaction_says_what_was_due(journal: Journal) -> None:
    run = journal.request()
    journal.fail(run)
    state = fold(journal.entries[:-1])
    assert state.owed is not None
    assert (set(state.owed.kinds), state.owed.run_id) == ({"finished"}, run.run_id)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("a round that nobody opened", {"round": 2}, "wrong_round"),
    ("an attempt that was left out", {"attempt": 3, "state": "ready"}, "wrong_round"),
    ("another stage than the run's", {"stage": "warm"}, "wrong_stage"),
    ("a state that is none", {"state": "ended"}, "bad_entry"),
    ("a lease", {"state": "running"}, "wrong_move"),
    ("a number that is none", {"round": "1"}, "bad_entry"),
    ("a next step without what it is given", {"output": None}, "bad_entry"),
    ("a time that is none", {"started_at": "yesterday"}, "bad_entry"),
    ("an id that is none", {"event": "x"}, "bad_entry"),
]


@pytest.mark.parametrize(("change", "code"), [pytest.param(change, code, id=name) for name, change, code in BAD])
def test_a_step_that_cannot_be_is_refused_by_name(journal: Journal, change: dict[str, Any], code: str) -> None:
    journal.done(journal.request())
    last = journal.entries[-1]
    assert refusal([*journal.entries[:-1], replace(last, data=last.data | change)]).code == code


def test_moves_that_the_ledger_never_makes_are_refused_by_name(journal: Journal) -> None:
    run_id = a_whole_run(journal)
    seq = len(journal.entries) + 1

    def then(kind: str, **data: Any) -> str:
        run = data.pop("run", run_id)
        return refusal([*journal.entries, Entry("acme", seq, BEGIN, run, kind, None, None, None, data)]).code

    accepted = journal.entries[0].data
    assert then("step", stage="warm", state="done", round=1, attempt=1) == "run_not_open"
    assert then("cancel") == "wrong_move"
    assert then("finished", outcome="failed") == "wrong_move"
    assert then("accepted", **accepted) == "run_exists"
    assert then("accepted", run=uuid4(), **accepted | {"pending": True}) == "wrong_head"
    assert then("merged", request={}, cause=str(uuid4())) == "wrong_head"
    assert then("started", **accepted["first"]) == "wrong_head"
    assert then("merged", run=uuid4(), request={}, cause=str(uuid4())) == "unknown_run"
    assert then("reopened", stage="train", round=3, void=[]) == "wrong_round"
    assert then("reopened", stage="deploy", round=2, void=[]) == "wrong_stage"
    assert then("exploded") == "unknown_kind"
    assert then("step", run=None) == "no_run"
