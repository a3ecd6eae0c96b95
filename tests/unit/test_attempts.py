"""What an attempt comes to: the trouble of one step of a batch, of the ledger, and of the stage's own time."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from schemas.quality import DqEvaluated, DqTick
from schemas.states import RunState, StepState
from streams.attempt import CRASH_LOOP, Attempts
from streams.ledger.versions import LedgerVersions
from streams.outcome import Leased
from streams.pipelines import Pipelines
from streams.quality import LedgerQuality
from streams.settings import Settings
from streams.stage import Pipeline, Retry, Stage, TryAgain, stage
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


class Broken:
    """A connection to the ledger on which each statement fails."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        self.asked += 1
        raise self.error

    @asynccontextmanager
    async def transaction(self) -> Any:
        raise self.error
        yield


OUTAGES = [ConnectionRefusedError(), TimeoutError(), asyncpg.ConnectionDoesNotExistError("gone"), asyncpg.AdminShutdownError("57P01"),
           asyncpg.DeadlockDetectedError("40P01")]  # fmt: skip


def alone(body: Any, **how: Any) -> tuple[Attempts, Stage]:
    """Attempts at a pipeline of this stage alone."""
    each = stage(**how)(body)
    return Attempts(Pipelines((Pipeline("quality", (each,), version="1"),), Settings()), None, At(), lambda topic, since: True), each


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda error: type(error).__name__)
async def test_a_stage_that_the_ledger_does_not_answer_waits_for_it_at_no_cost(outage: Exception) -> None:
    async def measure(event: DqTick, use: Any) -> DqEvaluated:
        await LedgerVersions(Broken(outage)).live("acme")  # type: ignore[arg-type]
        raise AssertionError

    item = await (made := alone(measure))[0].one(step("acme"), made[1])
    assert (item["outcome"], item["code"], item["cost"], item["waiting_for"]) == ("retry", "ledger_away", 0, "ledger")
    assert item["after"] < 10


async def test_a_batch_that_the_ledger_does_not_answer_waits_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Broken(ConnectionRefusedError())

    async def measure(events: list[DqTick], use: Any) -> list[DqEvaluated]:
        await LedgerQuality(ledger, None, None).standings([event.key for event in events], 0)  # type: ignore[arg-type]
        raise AssertionError

    attempts, each = alone(measure, batch=3)
    items = await attempts.many([step("acme"), step("globex"), step("initech")], each)
    assert [(item["code"], item["cost"]) for item in items] == [("ledger_away", 0)] * 3
    assert ledger.asked == 1


async def test_a_statement_that_is_wrong_is_a_crash_and_no_outage() -> None:
    async def measure(event: DqTick, use: Any) -> DqEvaluated:
        await LedgerVersions(Broken(asyncpg.UndefinedTableError("no such table"))).live("acme")  # type: ignore[arg-type]
        raise AssertionError

    item = await (made := alone(measure))[0].one(step("acme"), made[1])
    assert (item["code"], item["cost"]) == ("stage_crashed", 1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda quality: quality.attempts([uuid4()], "measure"),
        lambda quality: quality.last_verdict("acme"),
    ],
)
async def test_whatever_a_quality_stage_asks_of_the_ledger_waits_for_it(ask: Any) -> None:
    quality = LedgerQuality(Broken(ConnectionRefusedError()), SimpleNamespace(clock=At()), None)  # type: ignore[arg-type]
    with pytest.raises(TryAgain) as why:
        await ask(quality)
    assert (why.value.code, why.value.free) == ("ledger_away", True)


@pytest.mark.looptime
@pytest.mark.parametrize(("takes", "code"), [(timedelta(minutes=11), "stage_timeout"), (timedelta(seconds=1), "stage_crashed")])
async def test_only_a_stage_that_used_its_time_up_is_said_to_have_done_so(takes: timedelta, code: str) -> None:
    async def measure(event: DqTick, use: Any) -> DqEvaluated:
        await asyncio.sleep(takes.total_seconds())
        raise TimeoutError("something in the stage gave up waiting")

    item = await (made := alone(measure, retry=Retry()))[0].one(step("acme"), made[1])
    assert (item["outcome"], item["code"], item["cost"]) == ("retry", code, 1)
