"""Every pair of run states against the table of moves."""

from itertools import product

import pytest

from schemas.states import RUN_MOVES, TERMINAL, RunState, may_move

# from the row's state to the column's; columns in the order of the rows
ALLOWED = """
                         pen run can suc war fai cld tim blo sup
pending                   .   x   .   .   .   .   x   .   x   x
running                   .   .   x   x   x   x   x   x   x   x
cancelling                .   .   .   x   x   x   x   x   .   x
succeeded                 .   x   .   .   .   .   .   .   .   .
succeeded_with_warnings   .   x   .   .   .   .   .   .   .   .
failed                    .   x   .   .   .   .   .   .   .   .
cancelled                 .   x   .   .   .   .   .   .   .   .
timed_out                 .   x   .   .   .   .   .   .   .   .
blocked                   .   x   .   .   .   .   .   .   .   .
superseded                .   .   .   .   .   .   .   .   .   .
"""
_ROWS = {name: marks for name, *marks in map(str.split, ALLOWED.strip().splitlines()[1:])}


@pytest.mark.parametrize(("before", "after"), list(product(RunState, RunState)), ids=lambda state: state.value)
def test_a_run_moves_only_where_the_table_says(before: RunState, after: RunState) -> None:
    column = list(_ROWS).index(after.value)
    assert may_move(before, after) == (_ROWS[before.value][column] == "x")


def test_every_state_has_its_row_here_and_in_the_code() -> None:
    assert set(_ROWS) == {state.value for state in RunState}
    assert set(RUN_MOVES) == set(RunState)


def test_a_terminal_state_is_one_in_which_nothing_happens_by_itself() -> None:
    assert {state.value for state in RunState if not state.terminal} == {"pending", "running", "cancelling"}
    for state in TERMINAL:
        assert RUN_MOVES[state] <= {RunState.RUNNING}, "only a retry by hand leaves a terminal state"


def test_a_run_that_was_asked_to_cancel_does_not_go_on() -> None:
    assert not may_move(RunState.CANCELLING, RunState.RUNNING)
