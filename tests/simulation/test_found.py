"""What the simulation found, as small cases of their own: a seed finds a bug, a case keeps it out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from schemas.states import RunState, StepState
from schemas.training import TrainingCompleted, TrainingStarted, TrainingValidated
from streams import attempt
from streams.attempt import Attempts
from streams.outcome import Leased
from streams.pipelines import Pipelines
from streams.settings import Settings
from streams.stage import Pipeline, stage

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@stage(timeout=timedelta(seconds=0.05))
async def train(event: TrainingValidated, use: Any) -> TrainingStarted:
    raise AssertionError("a job that waits is never started again")


async def cancel(started: TrainingStarted, use: Any) -> None:
    raise RuntimeError("a client that crashes")


@train.watch(engine="ml_engine", every=lambda _: timedelta(minutes=1), deadline=lambda _: timedelta(hours=6), cancel=cancel)
async def ask(started: TrainingStarted, use: Any) -> TrainingCompleted | None:
    await asyncio.sleep(0.2)
    return None


class At:
    """The ledger's clock, standing."""

    def now(self) -> datetime:
        return NOW


def waiting(*, deadline: datetime, state: RunState = RunState.RUNNING) -> Leased:
    run = uuid4()
    job = {"tenant_id": "acme", "run_id": str(run), "job_id": "job-1"}
    return Leased(
        run, "acme", "training", "train", StepState.WAITING, 1, 1, 0, 1, state, {}, "training.validated", uuid4(), job, None, deadline, None, None
    )


@pytest.fixture
def attempts() -> Attempts:
    return Attempts(Pipelines((Pipeline("training", (train,), version="1"),), Settings()), None, At(), lambda topic, since: True)


async def test_a_look_that_takes_longer_than_the_stage_may_does_not_start_the_job_again(attempts: Attempts) -> None:
    item = await attempts.one(waiting(deadline=NOW + timedelta(hours=1)), train)
    assert item["outcome"] == "waiting"


async def test_a_look_that_never_ends_is_given_up_and_repeated(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "ASK_TIMEOUT", 0.05)
    item = await attempts.one(waiting(deadline=NOW + timedelta(hours=1)), train)
    assert (item["outcome"], item["code"]) == ("waiting", "watch_timeout")


@pytest.mark.parametrize(("state", "final"), [(RunState.RUNNING, RunState.TIMED_OUT), (RunState.CANCELLING, RunState.CANCELLED)])
async def test_an_engine_that_cannot_be_told_to_cancel_does_not_keep_the_run_from_its_end(
    attempts: Attempts, state: RunState, final: RunState
) -> None:
    item = await attempts.one(waiting(deadline=NOW, state=state), train)
    assert (item["outcome"], item["final"]) == ("failed", final)
