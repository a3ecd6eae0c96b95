"""Runs the steps this worker holds: body, policy, commit, and on to the next step that the commit leased to it."""

import asyncio
from typing import Any, Protocol
from uuid import UUID

import structlog

from schemas.event import Event, Failure, JobStarted
from schemas.states import RunState, StepState
from streams import metrics, outcome
from streams.faultpoints import point
from streams.ledger.groupcommit import ItemRefused, Stopped
from streams.ledger.ledger import Answer, Ledger
from streams.names import finish_event
from streams.outcome import Item, Leased
from streams.pipelines import Pipelines
from streams.stage import GiveUp, Pipeline, Stage, TryAgain, Watch
from streams.step import LeaseLost, Step, current

log = structlog.get_logger(__name__)

CRASH_LOOP = 20
"""After so many lost leases in one round the step itself is suspected of killing its workers."""
ASK_TIMEOUT = 60.0
"""Seconds that one look at a job may take."""


class Publisher(Protocol):
    def publish(self, rows: list[Item]) -> None: ...


class Room(Protocol):
    """How many CPU-heavy steps may start now."""

    @property
    def free(self) -> int: ...


class Lease(Protocol):
    """Whether this worker may still speak for its steps; a new epoch begins whenever it may not for a while."""

    worker: UUID
    epoch: int

    def held(self, epoch: int) -> bool: ...


class Executor:
    """A bounded number of steps at a time; each carries its run on as long as the commits lease it the next step."""

    def __init__(self, pipelines: Pipelines, services: Any, ledger: Ledger, outbox: Publisher, *, lease: Lease, cpu: Room) -> None:
        self._pipelines, self._services, self._ledger, self._outbox = pipelines, services, ledger, outbox
        self._worker, self._lease, self._cpu = lease.worker, lease, cpu
        self._settings = pipelines.settings.runtime
        self._running: dict[tuple[UUID, str], asyncio.Task[None]] = {}
        self._cpu_steps = 0
        self.room_made = asyncio.Event()
        """Set whenever a step ended: the dispatcher may claim again."""
        self.draining = False

    @property
    def room(self) -> int:
        return 0 if self.draining else self._settings.concurrency - len(self._running)

    @property
    def cpu_room(self) -> int:
        return min(self._cpu.free, self._settings.processes - self._cpu_steps)

    @property
    def worker_for_next(self) -> UUID | None:
        """Who an accept may lease a first step to: this worker, if it has room."""
        return self._worker if self._settings.eager and self.room > 0 else None

    def holds(self, row: Answer) -> bool:
        return (UUID(row["run_id"]), row["stage"]) in self._running

    def take(self, row: Answer) -> None:
        """Work on a step that the ledger leased to this worker."""
        step = Leased.load(row)
        if step.key not in self._running:
            self._running[step.key] = asyncio.create_task(self._carry(step), name=f"{step.tenant_id} {step.stage}")

    async def drain(self, grace: float) -> None:
        """Take nothing new; let what runs finish within the grace, then give it back untouched."""
        self.draining = True
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace)
        for task in list(self._running.values()):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=5)

    async def _carry(self, step: Leased | None) -> None:
        while step is not None:
            key = step.key
            task = asyncio.current_task()
            assert task is not None
            self._running[key] = task
            heavy = step.stage in self._pipelines.cpu_stages
            self._cpu_steps += heavy
            following: Leased | None = None
            try:
                following = await self._execute(step)
            except LeaseLost:
                log.info("lease lost, the attempt is dropped", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage)
            except Stopped:
                log.info("stopping without the ledger; the step's lease will run out", run=str(step.run_id), stage=step.stage)
            except asyncio.CancelledError:
                await self._give_back(step)
            except ItemRefused as refusal:
                await self._fail_unstorable(step, refusal)
            except Exception:
                log.exception("executor error; the lease will be found again", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage)
            finally:
                self._cpu_steps -= heavy
                self._running.pop(key, None)
                self.room_made.set()
            step = following

    async def _execute(self, step: Leased) -> Leased | None:
        pipeline = self._pipelines.by_name.get(step.pipeline)
        stage = pipeline.by_name.get(step.stage) if pipeline else None
        if pipeline is None or stage is None:
            log.error("no such stage here; upgrade this worker", code="unknown_stage", pipeline=step.pipeline, stage=step.stage, run=str(step.run_id))
            await self._commit(step, None, {"outcome": "released", "after": 60}, None)
            return None
        context = self._context(step, stage)
        token = current.set(context)
        started = asyncio.get_running_loop().time()
        try:
            item = await self._attempt(step, stage)
        finally:
            current.reset(token)
        metrics.stage_seconds.labels(step.pipeline, step.stage, item["outcome"]).observe(asyncio.get_running_loop().time() - started)
        if item.get("outcome") != "done":
            _say(step, item)
        return await self._commit(step, pipeline, item, context)

    async def _attempt(self, step: Leased, stage: Stage) -> Item:
        """The body's outcome as a ledger item: every exception has its place here, none goes further."""
        try:
            async with asyncio.timeout(stage.timeout.total_seconds()):
                if step.state == StepState.WAITING:
                    return await self._look(step, stage)
                return await self._run(step, stage)
        except TryAgain as why:
            return outcome.try_again(step, stage, self._pipelines.retry(stage), why)
        except GiveUp as why:
            return outcome.give_up(step, stage, why)
        except LeaseLost:
            raise
        except TimeoutError:
            sentence = f"{stage.name} of {step.tenant_id} did not end within {stage.timeout}"
            return outcome.try_again(step, stage, self._pipelines.retry(stage), TryAgain(sentence, code="stage_timeout"))
        except Exception as error:
            log.exception("stage crashed", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage)
            sentence = f"{stage.name} of {step.tenant_id} crashed: {type(error).__name__}: {str(error)[:300]}; see the worker's log"
            return outcome.try_again(step, stage, self._pipelines.retry(stage), TryAgain(sentence, code="stage_crashed"))

    async def _run(self, step: Leased, stage: Stage) -> Item:
        if step.run_state == RunState.CANCELLING:
            return outcome.cancelled()
        if step.output is not None:  # a failed completion came for this step
            failure = self._completion(step, stage).failure
            assert failure is not None, "only failed completions are left to the executor"
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), failure)
        if step.takeovers >= CRASH_LOOP:
            raise GiveUp(
                f"{step.takeovers} workers died over {stage.name}; look at their logs, then `tidemill retry {step.run_id}`", code="crash_loop"
            )
        event = self._pipelines.event(stage.takes, step.input, step.run_id)
        if stage.batch:
            [result] = await stage([event], self._services)
            if isinstance(result, Exception):
                raise result
        else:
            result = await stage(event, self._services)
        if isinstance(result, JobStarted):
            assert stage.watcher is not None, f"{stage.name} started a job but declares no watch"
            every, deadline = stage.watcher.every(self._pipelines.settings), stage.watcher.deadline(self._pipelines.settings)
            return outcome.waiting(step, result, stage, every, deadline, self._ledger.clock.now())
        return outcome.done(step, result)

    async def _look(self, step: Leased, stage: Stage) -> Item:
        """Ask after the job of a waiting step; at the deadline once more, then no more."""
        watcher = stage.watcher
        assert watcher is not None
        assert step.job is not None
        started = self._pipelines.event(watcher.takes, step.job, step.run_id)
        job_id: str = step.job["job_id"]
        if step.run_state == RunState.CANCELLING:
            await self._ask_to_cancel(stage, started)
            return outcome.cancelled()
        every = watcher.every(self._pipelines.settings)
        over = step.deadline is not None and self._ledger.clock.now() >= step.deadline
        try:
            finding = await self._ask(watcher, started)
        except TryAgain as why:
            if not over:
                return outcome.look_again(every, why)
            finding = None
        except GiveUp as why:
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), Failure(why.code, why.sentence, why.again))
        if finding is None:
            if not over:
                return outcome.look_again(every)
            await self._ask_to_cancel(stage, started)
            return outcome.timed_out(step, job_id, str(watcher.deadline(self._pipelines.settings)))
        if finding.failure is not None:
            return outcome.job_failed(step, stage, self._pipelines.retry(stage), finding.failure)
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

    async def _ask_to_cancel(self, stage: Stage, started: Event) -> None:
        """Tell the engine that nobody waits any more; that it cannot be told changes nothing for the run."""
        cancel = stage.watcher.cancel if stage.watcher else None
        if cancel is None:
            return
        try:
            await cancel(started, self._services)
        except (TryAgain, GiveUp) as why:
            log.warning(
                "the engine could not be asked to cancel", code=why.code, reason=why.sentence, tenant=started.tenant_id, run=str(started.run_id)
            )

    def _completion(self, step: Leased, stage: Stage) -> Event:
        assert stage.watcher is not None
        assert step.output is not None
        return self._pipelines.event(stage.watcher.gives, step.output, step.run_id)

    def _context(self, step: Leased, stage: Stage) -> Step:
        deadline, epoch = asyncio.get_running_loop().time() + stage.timeout.total_seconds(), self._lease.epoch
        return Step(
            run_id=step.run_id,
            tenant_id=step.tenant_id,
            pipeline=step.pipeline,
            stage=step.stage,
            round=step.round,
            attempt=step.attempt,
            fence=step.fence,
            lease_held=lambda: self._lease.held(epoch),
            deadline=deadline,
            traceparent=step.traceparent,
        )

    async def _commit(self, step: Leased, pipeline: Pipeline | None, item: Item, context: Step | None) -> Leased | None:
        """One transaction: outcome, next step, outgoing events. Gives the next step when it was leased to this worker."""
        following = first = None
        if pipeline is not None:
            first = self._pipelines.first(pipeline)
            following = self._pipelines.next(pipeline, step.stage, hold=not self._settings.eager)
        eager = self._settings.eager and not self.draining and following is not None
        if eager and following is not None and following["stage"] in self._pipelines.cpu_stages and self.cpu_room <= 0:
            eager = False
        item = {
            **item,
            "run_id": step.run_id,
            "tenant": step.tenant_id,
            "stage": step.stage,
            "round": step.round,
            "worker": self._worker,
            "fence": step.fence,
            "next": following,
            "first": first,
            "finish_id": finish_event(step.run_id, step.stage, step.round),
            "next_worker": self._worker if eager else None,
            "effects": [_row(effect) for effect in context.effects] if context else [],
        }
        answer = await self._ledger.commit({key: value for key, value in item.items() if value is not None})
        point("step.committed")
        if answer.get("outbox"):
            self._outbox.publish(answer["outbox"])
        if answer["result"] == "lost":
            log.info(
                "commit refused: another worker owns the step by now", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage, fence=step.fence
            )
        return Leased.load(answer["step"]) if answer.get("step") else None

    async def _give_back(self, step: Leased) -> None:
        try:
            async with asyncio.timeout(3):
                await self._commit(step, self._pipelines.by_name.get(step.pipeline), {"outcome": "released"}, None)
        except (TimeoutError, Stopped, ItemRefused):
            log.warning("a step could not be given back; its lease will run out", run=str(step.run_id), stage=step.stage)

    async def _fail_unstorable(self, step: Leased, refusal: ItemRefused) -> None:
        """The stage's event cannot be stored (SQLSTATE 22/23): no retry would help."""
        pipeline = self._pipelines.by_name[step.pipeline]
        sentence = f"the ledger refused what {step.stage} of {step.tenant_id} gave (SQLSTATE {refusal.code}); report it with the worker's log"
        await self._commit(step, pipeline, {"outcome": "failed", "final": RunState.FAILED, "code": "unstorable", "error": sentence}, None)


def _row(effect: Any) -> Item:
    return {
        "key": effect.key,
        "command": effect.command,
        "status": effect.status,
        "request_sha256": effect.request_sha256.hex(),
        "reply_sha256": effect.reply_sha256.hex(),
        "reply": effect.reply,
        "sent_at": effect.sent_at.isoformat(),
    }


def _say(step: Leased, item: Item) -> None:
    if item["outcome"] == "waiting" and "error" not in item:
        return
    say = log.info if item["outcome"] in ("waiting", "skipped") or item.get("waiting_for") else log.warning
    fields = {
        "run": str(step.run_id),
        "tenant": step.tenant_id,
        "stage": step.stage,
        "attempt": step.attempt,
        "code": item.get("code"),
        "reason": item.get("error"),
    }
    say(f"step {item['outcome']}", **fields)
