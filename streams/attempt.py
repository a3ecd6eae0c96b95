"""One attempt at a step: the body or the watcher is called, and whatever comes of it becomes a ledger item by the policy in `outcome`.

Every exception has its place here; only a lost lease goes further.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import structlog

from schemas.event import Event, Failure, JobStarted
from schemas.states import RunState, StepState
from streams import outcome
from streams.calmly import calmly
from streams.ledger.ledger import Clocklike
from streams.outcome import Item, Leased
from streams.pipelines import Pipelines
from streams.stage import GiveUp, Stage, TryAgain, Watch
from streams.step import LeaseLost

log = structlog.get_logger(__name__)

CRASH_LOOP = 20
"""After so many leases lost in one round, to deaths, outages or pauses, the step itself is suspected of killing its workers."""
ASK_TIMEOUT = 60.0
"""Seconds that one look at a job may take."""


class CaughtUp(Protocol):
    """Whether the ledger has all that lay on `topic` at some moment after `since` (by the ledger's clock); False when that is not known."""

    def __call__(self, topic: str, since: datetime) -> bool: ...


class Attempts:
    """Calls stages and watchers with the services of this worker."""

    def __init__(self, pipelines: Pipelines, services: Any, clock: Clocklike, caught_up: CaughtUp) -> None:
        self._pipelines, self._services, self._clock, self._caught_up = pipelines, services, clock, caught_up

    async def one(self, step: Leased, stage: Stage) -> Item:
        """The body's outcome as a ledger item: every exception has its place here, none goes further."""
        limit = asyncio.timeout(stage.timeout.total_seconds())
        try:
            if step.state == StepState.WAITING:
                return await self._look(step, stage)  # has limits of its own: the stage's would start the job a second time in one round
            async with limit:
                return await self._run(step, stage)
        except LeaseLost:
            raise
        except Exception as error:
            return self._trouble(step, stage, error, late=limit.expired())

    async def many(self, steps: Sequence[Leased], stage: Stage) -> list[Item]:
        """The outcomes of a batch stage, one a step; a batch that fails as a whole is halved until the culprit is alone."""
        over = {step.key: outcome.cancelled() for step in steps if step.run_state == RunState.CANCELLING}
        todo: list[Leased] = []
        events: list[Event] = []
        async for step in calmly(step for step in steps if step.key not in over):
            try:
                events.append(self._taken(step, stage))
                todo.append(step)
            except Exception as error:  # one that cannot be begun keeps nobody else from it
                over[step.key] = self._trouble(step, stage, error)
        limit = asyncio.timeout(stage.timeout.total_seconds())
        try:
            async with limit:
                results = await stage(events, self._services) if events else []
            if len(results) != len(events):
                raise TypeError(f"{stage.name} gave {len(results)} outcomes for {len(events)} events")
        except LeaseLost:
            raise
        except Exception as error:
            if len(todo) > 1 and not (isinstance(error, TryAgain) and error.free):  # an outage has no culprit among them
                half = len(todo) // 2
                items = [*await self.many(todo[:half], stage), *await self.many(todo[half:], stage)]
            else:
                items = [self._trouble(step, stage, error, late=limit.expired()) for step in todo]
        else:
            items = [
                self._trouble(step, stage, result) if isinstance(result, Exception) else outcome.done(step, result)
                async for step, result in calmly(zip(todo, results, strict=True))
            ]
        over |= {step.key: item for step, item in zip(todo, items, strict=True)}
        return [over[step.key] for step in steps]

    def _trouble(self, step: Leased, stage: Stage, error: Exception, *, late: bool = False) -> Item:
        """The exception as an outcome; `late`: the stage's own time was over, other timeouts are a crash like any other."""
        retry, now = self._pipelines.retry(stage), self._clock.now()
        if isinstance(error, GiveUp):
            return outcome.give_up(step, stage, error)
        if isinstance(error, TryAgain):
            return outcome.try_again(step, stage, retry, error, now)
        if late and isinstance(error, TimeoutError):
            sentence = f"{stage.name} of {step.tenant_id} did not end within {stage.timeout}"
            return outcome.try_again(step, stage, retry, TryAgain(sentence, code="stage_timeout"), now)
        log.error("stage crashed", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage, exc_info=error)
        sentence = f"{stage.name} of {step.tenant_id} crashed: {type(error).__name__}: {str(error)[:300]}; see the worker's log"
        return outcome.try_again(step, stage, retry, TryAgain(sentence, code="stage_crashed"), now)

    async def _run(self, step: Leased, stage: Stage) -> Item:
        if step.run_state == RunState.CANCELLING and (stage.when_cancelled == "stop" or step.output is not None):
            return outcome.cancelled()
        if step.output is not None:  # a failed completion came for this step
            failure = self._completion(step, stage).failure
            assert failure is not None, "only failed completions are left to the executor"
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), failure, self._clock.now())
        result = await stage(self._taken(step, stage), self._services)
        if isinstance(result, JobStarted):
            assert stage.watcher is not None, f"{stage.name} started a job but declares no watch"
            every, deadline = stage.watcher.every(self._pipelines.settings), stage.watcher.deadline(self._pipelines.settings)
            return outcome.waiting(step, result, stage, every, deadline, self._clock.now())
        return outcome.done(step, result)

    def _taken(self, step: Leased, stage: Stage) -> Event:
        """What the stage is to be called with, unless calling it seems to kill workers."""
        if step.takeovers >= CRASH_LOOP:
            raise GiveUp(
                f"{step.takeovers} workers died over {stage.name}, or lost their leases; look at their logs, then `tidemill retry {step.run_id}`",
                code="crash_loop",
            )
        return self._pipelines.event(stage.takes, step.input, step.run_id)

    async def _look(self, step: Leased, stage: Stage) -> Item:
        """Ask after the job of a waiting step; past the deadline until all is read that may say how it ended, then no more."""
        watcher = stage.watcher
        assert watcher is not None
        assert step.job is not None
        started = self._pipelines.event(watcher.takes, step.job, step.run_id)
        job_id: str = step.job["job_id"]
        if step.run_state == RunState.CANCELLING:
            await self._ask_to_cancel(stage, started)
            return outcome.cancelled()
        every = watcher.every(self._pipelines.settings)
        overdue = step.deadline if step.deadline is not None and self._clock.now() >= step.deadline else None
        try:
            finding = await self._ask(watcher, started)
        except TryAgain as why:
            if overdue is None:
                return outcome.look_again(every, why)
            finding = None
        except GiveUp as why:
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), Failure(why.code, why.sentence, why.again), self._clock.now())
        if finding is None:
            if overdue is None:
                return outcome.look_again(every)
            if not self._caught_up(watcher.gives.topic, overdue):
                return outcome.unread(job_id, watcher.gives.topic)
            await self._ask_to_cancel(stage, started)
            return outcome.timed_out(step, job_id, str(watcher.deadline(self._pipelines.settings)))
        if finding.failure is not None:
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), finding.failure, self._clock.now())
        return outcome.found(step, finding, stage, job_id)

    async def _ask(self, watcher: Watch, started: Event) -> Event | None:
        """What the watcher finds; its own trouble is one more reason to ask again, never one to start the job again."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                finding: Event | None = await watcher.ask(started, self._services)
                return finding
        except (TryAgain, GiveUp, LeaseLost):
            raise
        except TimeoutError:
            raise TryAgain(f"asking after the job of {started.tenant_id} took more than {ASK_TIMEOUT} s", code="watch_timeout") from None
        except Exception as error:
            log.exception("watcher crashed", run=str(started.run_id), tenant=started.tenant_id)
            raise TryAgain(f"asking after the job crashed: {type(error).__name__}; see the worker's log", code="watch_crashed") from error

    async def abandon(self, step: Leased, stage: Stage, job: dict[str, Any]) -> None:
        """A job was started for a run that ended meanwhile: nobody else knows of it."""
        if stage.watcher is not None:
            await self._ask_to_cancel(stage, self._pipelines.event(stage.watcher.takes, job, step.run_id))

    async def _ask_to_cancel(self, stage: Stage, started: Event) -> None:
        """Tell the engine that nobody waits any more; that it cannot be told changes nothing for the run."""
        cancel = stage.watcher.cancel if stage.watcher else None
        if cancel is None:
            return
        about = {"tenant": started.tenant_id, "run": str(started.run_id)}
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                await cancel(started, self._services)
        except LeaseLost:
            raise
        except (TryAgain, GiveUp) as why:
            log.warning("the engine could not be asked to cancel", code=why.code, reason=why.sentence, **about)
        except Exception as error:
            log.warning("the engine could not be asked to cancel", code="cancel_crashed", reason=repr(error), **about)

    def _completion(self, step: Leased, stage: Stage) -> Event:
        assert stage.watcher is not None
        assert step.output is not None
        return self._pipelines.event(stage.watcher.gives, step.output, step.run_id)
