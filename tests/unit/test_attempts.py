"""A batch of steps: what one of them cannot be begun with is its own trouble."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from schemas.states import RunState, StepState
from streams.attempt import CRASH_LOOP, Attempts
from streams.outcome import Leased
from streams.pipelines import Pipelines
from streams.settings import Settings
from tests.pipeline.toy import QUALITY, Neighbours, measure

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class At:
    """The ledger's clock, standing."""

    def now(self) -> datetime:
        return NOW


def step(tenant: str, *, takeovers: int = 0, **data: Any) -> Leased:
    given = {"tenant_id": tenant} | data
    return Leased(
        uuid4(), tenant, "quality", "measure", StepState.RUNNING, 1, 1, takeovers, 1, RunState.RUNNING, given, "dq.tick", uuid4(), None, None, None,
        None, None,
    )  # fmt: skip


@pytest.fixture
def use() -> Neighbours:
    return Neighbours()


@pytest.fixture
def attempts(use: Neighbours) -> Attempts:
    return Attempts(Pipelines((QUALITY,), Settings()), use, At(), lambda topic, since: True)


async def test_a_step_over_which_workers_die_leaves_its_batch_and_fails(attempts: Attempts, use: Neighbours) -> None:
    good, bad = await attempts.many([step("acme"), step("globex", takeovers=CRASH_LOOP)], measure)
    assert good["outcome"] == "done"
    assert (bad["outcome"], bad["code"]) == ("failed", "crash_loop")
    assert use.batches == [["acme"]]


async def test_a_step_whose_event_nobody_understands_any_more_keeps_no_other_waiting(attempts: Attempts) -> None:
    bad, good = await attempts.many([step("globex", slot="some day"), step("acme")], measure)
    assert good["outcome"] == "done"
    assert (bad["outcome"], bad["code"]) == ("retry", "stage_crashed")
