"""Runs the steps this worker holds: body, policy, commit, and on to the next step that the commit leased to it."""

import asyncio
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import structlog

from schemas.states import TERMINAL, RunState
from streams import metrics
from streams.attempt import Attempts, CaughtUp
from streams.faultpoints import point
from streams.giveway import GiveWay
from streams.ledger.groupcommit import ItemRefused, Stopped
from streams.ledger.ledger import Answer, Ledger
from streams.names import finish_event
from streams.outcome import Item, Leased
from streams.pipelines import Pipelines
from streams.stage import Pipeline, Stage
from streams.step import LeaseLost, Step, current

log = structlog.get_logger(__name__)

COMMITTED_AT_ONCE = 25
"""Steps of a batch: what others hand over meanwhile waits for so many, not for all of them …"""
BESIDE_OTHERS = 5
"""… and for so many while there are others in a hurry."""
PAUSE = 3.0
"""What follows from a commit goes on the same event loop as theirs: after each slice they have it for so many times as long as that took."""


class InHand(NamedTuple):
    """Who works on a step, and on what: `tenant pipeline`, of which there is one run at a time, unless a queue came about in another way."""

    task: "asyncio.Task[None]"
    of: str | None
    """None in a batch, where many share one place."""


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

    def __init__(
        self, pipelines: Pipelines, services: Any, ledger: Ledger, outbox: Publisher, *, lease: Lease, cpu: Room, caught_up: CaughtUp
    ) -> None:
        self._pipelines, self._ledger, self._outbox = pipelines, ledger, outbox
        self._worker, self._lease, self._cpu = lease.worker, lease, cpu
        self._attempts = Attempts(pipelines, services, ledger.clock, caught_up)
        self._settings = pipelines.settings.runtime
        self._running: dict[tuple[UUID, str], InHand] = {}
        self._cpu_steps = 0
        self.giving_way = GiveWay()
        self.room_made = asyncio.Event()
        """Set whenever a step ended: the dispatcher may claim again."""
        self.draining = False

    @property
    def room(self) -> int:
        return 0 if self.draining else self._settings.concurrency - len({each.task for each in self._running.values()})

    @property
    def busy(self) -> set[str]:
        """`tenant pipeline` of each step in hand."""
        return {each.of for each in self._running.values() if each.of is not None}

    @property
    def cpu_room(self) -> int:
        return min(self._cpu.free, self._settings.processes - self._cpu_steps)

    @property
    def worker_for_next(self) -> UUID | None:
        """Who an accept may lease a first step to: this worker, if it has room."""
        return self._worker if self._settings.eager and self.room > 0 else None

    @property
    def in_hand(self) -> Collection[tuple[UUID, str]]:
        """Run and stage of each step in hand."""
        return list(self._running)

    def holds(self, row: Answer) -> bool:
        return (UUID(row["run_id"]), row["stage"]) in self._running

    def take(self, row: Answer) -> None:
        """Work on a step that the ledger leased to this worker."""
        self._begin(Leased.load(row))

    def take_batch(self, rows: Sequence[Answer], stage: Stage) -> None:
        """Work on steps of a batch stage in one call."""
        self._begin_batch([Leased.load(row) for row in rows], stage)

    def batches(self, stage: Stage) -> int:
        """How many calls of a batch stage are under way."""
        return len({each.task for (_, name), each in self._running.items() if name == stage.name})

    @property
    def gathering(self) -> bool:
        """Whether a call of any batch stage is under way."""
        return any(each.of is None for each in self._running.values())

    def _begin(self, *steps: Leased) -> None:
        """Go on with each; what a batch stage has to do, in as few calls as it takes."""
        for name, some in groupby(sorted(steps, key=lambda step: step.stage), key=lambda step: step.stage):
            same = list(some)
            pipeline = self._pipelines.by_name.get(same[0].pipeline)
            stage = pipeline.by_name.get(name) if pipeline else None
            if stage is not None and stage.batch:
                for start in range(0, len(same), stage.batch):
                    self._begin_batch(same[start : start + stage.batch], stage)
                continue
            for step in same:
                if step.key not in self._running:
                    task = asyncio.create_task(self._carry(step), name=f"{step.tenant_id} {step.stage}")
                    self._running[step.key] = InHand(task, f"{step.tenant_id} {step.pipeline}")

    def _begin_batch(self, given: Sequence[Leased], stage: Stage) -> None:
        steps = [step for step in given if step.key not in self._running]
        if steps:
            task = asyncio.create_task(self._carry_batch(steps, stage), name=f"{len(steps)} x {stage.name}")
            self._running |= {step.key: InHand(task, None) for step in steps}

    async def drain(self, grace: float) -> None:
        """Take nothing new; let what runs finish within the grace, then give it back untouched."""
        self.draining = True
        if self._running:
            await asyncio.wait({each.task for each in self._running.values()}, timeout=grace)
        for each in list(self._running.values()):
            each.task.cancel()
        if self._running:
            await asyncio.wait({each.task for each in self._running.values()}, timeout=5)

    async def _carry(self, step: Leased | None) -> None:
        while step is not None:
            key = step.key
            task = asyncio.current_task()
            assert task is not None
            self._running[key] = InHand(task, f"{step.tenant_id} {step.pipeline}")
            self.giving_way.hurried()
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
            if following is not None and self._is_batch(following):
                return self._begin(following)
            step = following
        return None

    def _is_batch(self, step: Leased) -> bool:
        return step.stage in self._pipelines.batch_stages

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
            item = await self._attempts.one(step, stage)
        except LeaseLost:
            if context.effects:  # what was answered is recorded; no fence refuses that
                await self._commit(step, pipeline, {"outcome": "released"}, context)
            raise
        except asyncio.CancelledError:  # at the end of a drain; later, with the outcome, the answers are on their way to the ledger
            await self._give_back(step, context)
            return None
        finally:
            current.reset(token)
        metrics.stage_seconds.labels(step.pipeline, step.stage, item["outcome"]).observe(asyncio.get_running_loop().time() - started)
        _say(step, item)
        return await self._commit(step, pipeline, item, context)

    async def _carry_batch(self, steps: list[Leased], stage: Stage) -> None:
        """One call for many steps; each is committed by itself and goes on by itself."""
        pipeline, place = self._pipelines.by_name[steps[0].pipeline], self._running[steps[0].key]
        following: list[Leased] = []
        failed: list[BaseException] = []

        async def commit(step: Leased, item: Item) -> None:
            if (after := await self._commit(step, pipeline, item, None)) is not None:
                following.append(after)
                self._running[after.key] = place  # begun below, all together

        try:
            items = await self._attempts.many(steps, stage)
            for step, item in zip(steps, items, strict=True):
                _say(step, item)
            left, loop = list(zip(steps, items, strict=True)), asyncio.get_running_loop()
            while left:
                began, most = loop.time(), BESIDE_OTHERS if self.giving_way.others else COMMITTED_AT_ONCE
                some, left = left[:most], left[most:]
                failed += filter(None, await asyncio.gather(*(commit(*each) for each in some), return_exceptions=True))
                await self.giving_way.pause(began, PAUSE)
        except LeaseLost:
            log.info("lease lost, the batch is dropped", stage=stage.name, steps=len(steps))
            return
        except asyncio.CancelledError:
            await asyncio.gather(*(self._give_back(each) for each in (*steps, *following)))
            return
        finally:
            for each in (*steps, *following):
                self._running.pop(each.key, None)
            self.room_made.set()
        self._begin(*following)
        for error in failed:
            if not isinstance(error, Stopped):
                log.error("an outcome of a batch was not recorded; the step's lease will be found again", stage=stage.name, exc_info=error)

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
            cancelling=step.run_state == RunState.CANCELLING,
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
        usual = item["outcome"] == "done" and "job_id" not in item and not (following and following["limit"])
        item = {
            **item,
            "run_id": step.run_id,
            "tenant": step.tenant_id,
            "stage": step.stage,
            "round": step.round,
            "worker": self._worker,
            "fence": step.fence,
            "next": following,
            "finish_id": None if usual and following else finish_event(step.run_id, step.stage, step.round),
            "next_worker": self._worker if eager else None,
            "input_id": step.input_id,
            "traceparent": step.traceparent,
            "effects": [_row(effect) for effect in context.effects] if context else [],
        }
        answer = await self._ledger.hand_over(item, gathered=self._is_batch(step)) if usual else None
        if answer is None:
            item |= {"first": first, "finish_id": finish_event(step.run_id, step.stage, step.round)}
            answer = await self._ledger.commit({key: value for key, value in item.items() if value is not None})
        point("step.committed")
        if answer.get("outbox"):
            self._outbox.publish(answer["outbox"])
        if answer["result"] == "lost":
            log.info(
                "commit refused: another worker owns the step by now", run=str(step.run_id), tenant=step.tenant_id, stage=step.stage, fence=step.fence
            )
            if pipeline is not None and item["outcome"] == "waiting" and "job_id" in item and answer.get("run_state") in TERMINAL:
                await self._attempts.abandon(step, pipeline.by_name[step.stage], item["output"])
        if "begun" in answer and following is not None:
            return step.following(following["stage"], item, *answer["begun"])
        return Leased.load(answer["step"]) if answer.get("step") else None

    async def _give_back(self, step: Leased, context: Step | None = None) -> None:
        """Let others go on with the step; what was answered in `context` is recorded."""
        try:
            async with asyncio.timeout(3):
                await self._commit(step, self._pipelines.by_name.get(step.pipeline), {"outcome": "released"}, context)
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
    if "error" not in item:
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
