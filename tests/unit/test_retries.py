"""When a failed try is followed by another, and when it is the last."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from agents import validate
from schemas.event import Failure
from schemas.states import RunState, StepState
from streams import outcome
from streams.outcome import Item, Leased
from streams.stage import Retry, TryAgain

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RETRY = Retry(attempts=3, every=timedelta(minutes=5), within=timedelta(hours=6))


def step(attempt: int, *, tried_for: timedelta = timedelta(0)) -> Leased:
    return Leased(
        uuid4(), "acme", "training", "validate", StepState.RUNNING, 1, attempt, 0, 1, RunState.RUNNING, {}, "training.requested", uuid4(),
        None, None, None, NOW - tried_for, None,
    )  # fmt: skip


def after(why: TryAgain, attempt: int = 1, *, tried_for: timedelta = timedelta(0)) -> Item:
    return outcome.try_again(step(attempt, tried_for=tried_for), validate, RETRY, why, NOW)


def test_the_last_attempt_ends_the_run_with_what_went_wrong_and_how_often_it_was_tried() -> None:
    why = TryAgain("the store stutters", code="s3_slow")
    assert after(why, 2)["outcome"] == "retry"
    item = after(why, 3)
    assert (item["outcome"], item["code"], item["error"]) == ("failed", "s3_slow", "the store stutters (after 3 attempts)")


def test_an_outage_costs_no_attempts_but_ends_with_the_whole_budget() -> None:
    why = TryAgain("the engine is away", code="ml_engine_unreachable", free=True, waiting_for="ml_engine")
    assert (after(why, 3, tried_for=timedelta(hours=5))["cost"], after(why, 3)["waiting_for"]) == (0, "ml_engine")
    item = after(why, 3, tried_for=timedelta(hours=6))
    assert (item["outcome"], item["code"]) == ("failed", "ml_engine_unreachable")
    assert item["error"] == "the engine is away (tried since 2026-03-01 06:00 UTC)"


def test_a_wait_that_somebody_asks_for_is_not_begun_when_it_would_end_beyond_the_budget() -> None:
    assert after(TryAgain("busy", code="busy", after=timedelta(hours=5)))["outcome"] == "retry"
    assert after(TryAgain("busy", code="busy", after=timedelta(hours=7)))["outcome"] == "failed"


@pytest.mark.parametrize(("attempt", "tried_for", "again"), [(1, 0, True), (3, 0, False), (1, 6, False)])
def test_a_failed_job_is_started_anew_within_the_same_bounds(attempt: int, tried_for: int, again: bool) -> None:
    failure = Failure("training_failed", "out of memory", True)
    item = outcome.job_failed(step(attempt, tried_for=timedelta(hours=tried_for)), validate, RETRY, failure, NOW)
    assert (item["outcome"] == "retry") is again


def test_waits_grow_by_their_factor_up_to_the_longest() -> None:
    waits = [Retry(every=timedelta(minutes=10), factor=3).wait(attempt) for attempt in (1, 2, 3)]
    assert waits == [timedelta(minutes=10), timedelta(minutes=30), timedelta(hours=1)]
