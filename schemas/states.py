"""Where runs and steps can be, and the one table of moves between those states."""

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is."""

    PENDING = "pending"  # a follow-up: waits for the tenant's active run to end
    RUNNING = "running"  # a step of it is ready, running or waiting
    CANCELLING = "cancelling"  # cancel was asked; the step in flight has not reported yet
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_WARNINGS = "succeeded_with_warnings"  # live, but a non-critical stage failed
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"  # the tenant's data did not pass its quality checks
    SUPERSEDED = "superseded"  # a newer model went live first

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset(RunState) - {RunState.PENDING, RunState.RUNNING, RunState.CANCELLING}

_R = RunState
RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    _R.PENDING: frozenset({_R.RUNNING, _R.CANCELLED, _R.BLOCKED, _R.SUPERSEDED}),
    _R.RUNNING: TERMINAL | {_R.CANCELLING},
    _R.CANCELLING: TERMINAL - {_R.BLOCKED},
    # `tidemill retry` reopens a run with the next round; one that a newer model superseded stays over
    _R.FAILED: frozenset({_R.RUNNING}),
    _R.CANCELLED: frozenset({_R.RUNNING}),
    _R.TIMED_OUT: frozenset({_R.RUNNING}),
    _R.BLOCKED: frozenset({_R.RUNNING}),
    _R.SUCCEEDED_WITH_WARNINGS: frozenset({_R.RUNNING}),
    _R.SUCCEEDED: frozenset({_R.RUNNING}),
    _R.SUPERSEDED: frozenset(),
}


def may_move(before: RunState, after: RunState) -> bool:
    """Whether a run may go from `before` to `after`."""
    return after in RUN_MOVES[before]


class StepState(StrEnum):
    """Where one stage of one run is."""

    READY = "ready"  # to be claimed at due_at (now, or at the time of a retry)
    RUNNING = "running"  # leased by a worker
    WAITING = "waiting"  # something remote works on it; polled at due_at, given up at deadline
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # failed, but not critical: the run went on without it
    CANCELLED = "cancelled"
