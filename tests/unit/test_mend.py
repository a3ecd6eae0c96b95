"""A journal read back from Kafka, with entries missing anywhere: it always folds, nothing is invented, and what is whole comes back as it was."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.states import RunState, StepState
from streams.fold import REFILLED, fold
from streams.folded import Comparable, Data, Entry, Head, State
from streams.refill.mend import Mended, mend
from tests.unit.journals import BEGIN, Journal, journal_of

CASES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
choices = st.lists(st.integers(0, 999), min_size=2, max_size=40)
AT = BEGIN + timedelta(days=1)
pytestmark = pytest.mark.timeout(60)


def mended(entries: Iterable[Entry], base: State | None = None, **lost: UUID) -> Mended:
    first: Data = {"stage": "validate", "limit": None, "type": "training.requested"}
    topics = {event: name.replace("_", ".") for name, event in lost.items()}
    return mend("acme", base or State(), entries, lambda _: first, at=AT, note={}, lost=topics)


def without(journal: Journal, *numbers: int) -> list[Entry]:
    return [entry for entry in journal.entries if entry.seq not in numbers]


def test_a_journal_that_is_whole_comes_back_as_it_was_with_one_entry_that_says_so() -> None:
    journal = Journal()
    run = journal.request()
    journal.done(run)
    journal.wait(run)
    found = mended(journal.entries)
    assert found.entries[:-1] == journal.entries
    assert (found.entries[-1].kind, found.missing, found.set_aside, found.told) == (REFILLED, [], [], [])
    assert Comparable.of_state(found.state).steps == Comparable.of_state(fold(journal.entries)).steps


def test_a_run_whose_end_is_missing_is_over_when_the_next_one_began() -> None:
    journal = Journal()
    first = journal.request()
    journal.fail(first)
    second = journal.request()
    end = next(entry.seq for entry in journal.entries if entry.kind == "finished")
    found = mended(without(journal, end - 1, end))
    assert found.missing == [(end - 1, end)]
    assert (found.state.runs[first.run_id].state, found.state.runs[first.run_id].code) == (RunState.FAILED, "end_unknown")
    assert found.state.heads["training"] == Head(active=second.run_id)
    assert found.told == [first.run_id]


def test_a_run_whose_way_on_is_missing_stands_where_it_was_last_known() -> None:
    journal = Journal()
    run = journal.request()
    journal.done(run)
    journal.wait(run)
    journal.done(run)
    lost = next(entry.seq for entry in journal.entries if entry.data.get("state") == "done")
    found = mended(without(journal, lost))
    assert found.state.steps[run.run_id, "validate"].state == StepState.READY
    assert found.set_aside == [entry.seq for entry in journal.entries if entry.seq > lost]
    kept = [entry.data.get("undone") for entry in found.entries if entry.seq in found.set_aside and entry.data.get("undone")]
    assert kept == [str(entry.event_id) for entry in journal.entries if entry.seq > lost and entry.event_id]


def test_a_run_that_finished_behind_a_hole_is_over() -> None:
    journal = Journal()
    run = journal.request()
    journal.done(run)
    journal.wait(run)
    for _ in range(3):
        journal.done(run)
    found = mended(without(journal, 2))
    assert found.state.runs[run.run_id].state == RunState.SUCCEEDED
    assert found.state.heads["training"] == Head()


def test_a_run_whose_beginning_is_missing_is_not_there() -> None:
    journal = Journal()
    journal.done(journal.request())
    found = mended(without(journal, 1))
    assert (found.state.runs, found.missing, found.set_aside) == ({}, [(1, 1)], [2])


def test_an_end_that_was_cut_off_its_step_is_written_and_told() -> None:
    journal = Journal()
    run = journal.request()
    follow_up = journal.request()
    journal.fail(run)
    cut = next(entry.seq for entry in journal.entries if entry.kind == "finished")
    found = mended(entry for entry in journal.entries if entry.seq < cut)
    assert found.state.runs[run.run_id].state == RunState.FAILED
    assert found.state.heads["training"] == Head(active=follow_up.run_id)
    assert found.told == [run.run_id, follow_up.run_id]


def test_a_request_that_was_cut_off_its_run_is_set_aside_to_be_accepted_anew() -> None:
    journal = Journal()
    journal.request(publish=True)
    found = mended(journal.entries[:1])
    assert (found.state.runs, found.state.owed, found.set_aside) == ({}, None, [1])
    assert found.entries[0].data["undone"] == str(journal.entries[0].event_id)


def test_events_that_went_out_without_their_entries_stay_known_as_ours() -> None:
    journal = Journal()
    journal.request()
    event = uuid4()
    found = mended(journal.entries, training_validated=event)
    assert [entry.data["undone"] for entry in found.entries if "undone" in entry.data] == [str(event)]


@CASES
@given(choices, st.sets(st.integers(1, 60), max_size=12), st.integers(0, 30))
def test_whatever_is_missing_the_mended_journal_folds_on_what_the_ledger_has(chosen: list[int], gone: set[int], had: int) -> None:
    journal = journal_of(chosen)
    owed = [entry.seq for entry in journal.entries if fold(journal.entries[: entry.seq]).owed]
    had = max((n for n in range(min(had, len(journal.entries)) + 1) if n not in owed), default=0)
    base = fold(journal.entries[:had])
    found = mended([entry for entry in journal.entries[had:] if entry.seq not in gone], base)
    state = fold(found.entries, base)
    assert Comparable.of_state(state).hash() == Comparable.of_state(found.state).hash()
    assert state.owed is None
    assert all(entry in journal.entries or entry.kind in (REFILLED, "finished", "started") for entry in found.entries)
    for head in state.heads.values():
        assert head.active is not None or head.pending is None
    for run in state.runs.values():
        open_steps = [step for step in state.steps.values() if step.run_id == run.run_id and step.state in (StepState.READY, StepState.WAITING)]
        assert len(open_steps) == (run.state in ("running", "cancelling"))
        assert run.state.terminal or run.run_id in (state.heads[run.pipeline].active, state.heads[run.pipeline].pending)


@CASES
@given(choices)
def test_nothing_missing_means_nothing_changed(chosen: list[int]) -> None:
    journal = journal_of(chosen)
    found = mended(journal.entries)
    assert found.entries[:-1] == journal.entries
    assert found.state.runs == fold(journal.entries).runs
