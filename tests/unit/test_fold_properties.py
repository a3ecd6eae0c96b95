"""The fold under random journals: every valid one folds, every shuffled, dropped, doubled or stale entry is named."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.states import StepState
from streams.fold import fold, follow
from streams.folded import FoldError, State, state_hash
from tests.unit.journals import STAGES, Journal, journal_of, open_moves

CASES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
choices = st.lists(st.integers(0, 999), min_size=2, max_size=40)
pytestmark = pytest.mark.timeout(60)


class Ledger(RuleBasedStateMachine):
    """Random moves of a ledger; after each the fold knows as much as the model."""

    @initialize()
    def begin(self) -> None:
        self.journal, self.state, self.read = Journal(), State(), 0

    @rule(choice=st.integers(0, 999))
    def move(self, choice: int) -> None:
        moves = open_moves(self.journal)
        moves[choice % len(moves)]()
        for entry in self.journal.entries[self.read :]:
            follow(self.state, entry)
        self.read = len(self.journal.entries)

    @invariant()
    def runs_are_where_the_model_has_them(self) -> None:
        assert self.state.owed is None
        for told in self.journal.runs.values():
            run = self.state.runs[told.run_id]
            assert (run.state, run.causes, run.warnings) == (told.state, told.causes, told.warnings)
            if told.rounds and not run.state.terminal:
                step = self.state.steps[told.run_id, STAGES[told.stage]]
                assert (run.stage, step.round, step.attempt) == (step.stage, told.round, told.attempt)
                assert step.state == (StepState.WAITING if told.step == "waiting" else StepState.READY)

    @invariant()
    def heads_are_where_the_model_has_them(self) -> None:
        for pipeline, head in self.state.heads.items():
            assert (head.active, head.pending) == (self.journal.active.get(pipeline), self.journal.pending.get(pipeline))

    @invariant()
    def a_run_has_one_open_step_exactly_while_it_is_open(self) -> None:
        for run in self.state.runs.values():
            steps = [step for step in self.state.steps.values() if step.run_id == run.run_id and step.state in (StepState.READY, StepState.WAITING)]
            assert len(steps) == (run.state in ("running", "cancelling"))


Ledger.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestAnyHistoryOfALedgerFolds = Ledger.TestCase


@CASES
@given(choices, st.integers(0, 200))
def test_a_journal_folded_in_two_parts_is_the_journal_folded_at_once(picks: list[int], cut: int) -> None:
    entries = journal_of(picks).entries
    first, rest = entries[: cut % len(entries)], entries[cut % len(entries) :]
    before = fold(first)
    kept = state_hash(before)
    assert fold(rest, before) == fold(entries)
    assert state_hash(before) == kept, "folding on changes nothing of what was folded before"


@CASES
@given(choices)
def test_the_same_journal_has_the_same_hash(picks: list[int]) -> None:
    assert state_hash(fold(journal_of(picks).entries)) == state_hash(fold(journal_of(picks).entries))


@CASES
@given(choices, st.randoms(use_true_random=False))
def test_shuffled_entries_are_refused_by_name(picks: list[int], random: object) -> None:
    entries = journal_of(picks).entries
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assume(shuffled != entries)
    with pytest.raises(FoldError) as caught:
        fold(shuffled)
    assert caught.value.code in ("gap", "out_of_order")


@CASES
@given(choices, st.integers(0, 200))
def test_a_dropped_entry_is_refused_by_the_number_of_the_next(picks: list[int], which: int) -> None:
    entries = journal_of(picks).entries
    which %= len(entries) - 1
    with pytest.raises(FoldError) as caught:
        fold(entries[:which] + entries[which + 1 :])
    assert (caught.value.code, caught.value.seq) == ("gap", which + 2)


@CASES
@given(choices, st.integers(0, 200), st.integers(0, 200))
def test_a_repeated_or_stale_entry_is_refused_as_out_of_order(picks: list[int], which: int, where: int) -> None:
    entries = journal_of(picks).entries
    which %= len(entries)
    where = which + 1 + where % (len(entries) - which)
    with pytest.raises(FoldError) as caught:
        fold([*entries[:where], entries[which], *entries[where:]])
    assert (caught.value.code, caught.value.seq) == ("out_of_order", which + 1)


@CASES
@given(choices, st.integers(0, 200))
def test_an_entry_made_harmless_in_its_place_shows_at_once(picks: list[int], which: int) -> None:
    entries = journal_of(picks).entries
    which %= len(entries)
    assume(entries[which].run_id is not None)
    assume(entries[which].kind != "requested")  # says only that Kafka was told; `tidemill prove` holds it against the topic
    harmless = replace(entries[which], run_id=None, kind="tenant_suspended", data={})
    with suppress(FoldError):
        assert state_hash(fold([*entries[:which], harmless])) != state_hash(fold(entries[: which + 1]))


@CASES
@given(choices, st.integers(0, 200))
def test_an_entry_under_another_run_shows_at_once(picks: list[int], which: int) -> None:
    journal = journal_of(picks)
    entries = journal.entries
    which %= len(entries)
    others = [run for run in journal.runs if run != entries[which].run_id]
    assume(others and entries[which].kind not in ("requested", "tenant_suspended"))  # the entry after that one says whose it is
    forged = [*entries[:which], replace(entries[which], run_id=others[0])]
    with suppress(FoldError):
        assert state_hash(fold(forged)) != state_hash(fold(entries[: which + 1]))
