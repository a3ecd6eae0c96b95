"""The circuit breaker of a neighbour, on virtual time."""

import asyncio
import contextlib

import httpx
import pytest

from streams.clients.breaker import SILENCES_TO_OPEN, Breaker, Failed
from streams.clients.http import Neighbour
from streams.settings import MLEngineSettings, RetrySettings
from streams.stage import TryAgain
from tests.fakes import a_step, in_hand

pytestmark = pytest.mark.looptime


def fail(breaker: Breaker, whose: str | None = None) -> None:
    """No answer, or an error in answer to somebody's call."""
    failure = Failed()
    failure.whose = whose
    with pytest.raises(Failed), breaker.guard():
        raise failure


def cool_down(breaker: Breaker) -> float:
    with pytest.raises(TryAgain) as said, breaker.guard():
        pass
    assert said.value.after is not None
    return said.value.after.total_seconds()


async def test_it_stays_closed_when_failures_are_not_in_a_row():
    breaker = Breaker("ml_engine")
    for _ in range(10):
        for _ in range(4):
            fail(breaker)
        with breaker.guard():
            pass
    assert not breaker.open


async def test_errors_answered_to_one_run_alone_do_not_open_it():
    breaker = Breaker("inference")
    for _ in range(50):
        fail(breaker, "run-1")
    assert not breaker.open


@pytest.mark.parametrize("other", ["run-2", None])
async def test_one_failure_of_another_kind_or_run_after_many_opens_it(other):
    breaker = Breaker("inference")
    for _ in range(4):
        fail(breaker, "run-1")
    assert not breaker.open
    fail(breaker, other)
    assert breaker.open


async def test_an_error_to_the_run_that_probes_opens_it_again():
    breaker = Breaker("inference")
    for run in ("run-1", "run-2", "run-1", "run-2", "run-1"):
        fail(breaker, run)
    await asyncio.sleep(2)
    fail(breaker, "run-1")
    assert cool_down(breaker) >= 4


async def test_its_cool_down_doubles_from_two_seconds_to_thirty():
    breaker = Breaker("ml_engine")
    for _ in range(5):
        fail(breaker)
    for wanted in (2, 4, 8, 16, 30, 30):
        assert wanted <= cool_down(breaker) <= wanted * 1.5
        await asyncio.sleep(wanted)
        fail(breaker)  # the probe


async def test_one_probe_at_a_time_then_a_ramp_then_all():
    breaker = Breaker("ml_engine")
    for _ in range(5):
        fail(breaker)
    await asyncio.sleep(2)
    with breaker.guard():
        cool_down(breaker)  # the second has to wait
    assert not breaker.open
    with breaker.guard(), breaker.guard():
        cool_down(breaker)  # two at a time now
    for _ in range(10):
        with breaker.guard():
            pass
    with contextlib.ExitStack() as many:
        for _ in range(1000):
            many.enter_context(breaker.guard())


async def test_a_failure_on_the_ramp_opens_it_again_for_longer():
    breaker = Breaker("ml_engine")
    for _ in range(5):
        fail(breaker)
    await asyncio.sleep(2)
    with breaker.guard():
        pass
    fail(breaker)
    assert cool_down(breaker) >= 4


async def test_a_lie_is_neither_a_success_nor_a_failure():
    breaker = Breaker("ml_engine")
    for _ in range(5):
        fail(breaker)
    await asyncio.sleep(2)
    with pytest.raises(TryAgain), breaker.guard():
        raise TryAgain("HTML", code="ml_engine_lied")
    assert breaker.open
    with breaker.guard():
        pass
    assert not breaker.open


class Hanging(httpx.AsyncBaseTransport):
    """A neighbour that takes every call and answers none."""

    def __init__(self) -> None:
        self.calls = 0

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        self.calls += 1
        await asyncio.sleep(1e9)
        raise AssertionError("it is cut off before")


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_a_hanging_neighbour_costs_a_lone_run_no_attempt_whichever_worker_tries(workers):
    hanging, retry = Hanging(), RetrySettings()
    engines = [Neighbour("ml_engine", MLEngineSettings(), hanging) for _ in range(workers)]
    for attempt in range(20):
        with in_hand(a_step("train")), pytest.raises(TryAgain) as said:
            await engines[attempt % workers].call("GET", "/api/v1/jobs/j1/status", {})
        assert (said.value.free, said.value.waiting_for) == (True, "ml_engine")
        await asyncio.sleep(retry.every.total_seconds())
    assert all(engine.breaker.open for engine in engines)


async def test_calls_in_a_row_without_an_answer_open_it_and_an_answer_between_them_begins_the_row_anew():
    breaker = Breaker("ml_engine")
    for _ in range(SILENCES_TO_OPEN - 1):
        breaker.count_silence()
    with breaker.guard():
        pass
    for _ in range(SILENCES_TO_OPEN - 1):
        breaker.count_silence()
    assert not breaker.open
    breaker.count_silence()
    assert breaker.open


async def test_it_opens_before_a_lone_run_has_used_up_its_attempts():
    assert RetrySettings().attempts > SILENCES_TO_OPEN
