"""What an attempt came to, as the item that `commit_step` takes: the retry policy lives here and nowhere else. Pure functions."""

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from schemas.cloudevents import event_id
from schemas.event import Event, Failure, JobStarted
from schemas.states import RunState, StepState
from streams.stage import GiveUp, Retry, Stage, TryAgain

Item = dict[str, Any]

SOON = timedelta(seconds=3)
"""From one look past the deadline to the next; the ends of the logs are looked at each `sweep`."""


@dataclass(frozen=True, slots=True)
class Leased:
    """A step that this worker holds, as the ledger gave it."""

    run_id: UUID
    tenant_id: str
    pipeline: str
    stage: str
    state: str
    round: int
    attempt: int
    takeovers: int
    fence: int
    run_state: str
    input: dict[str, Any]
    input_type: str
    input_id: UUID
    job: dict[str, Any] | None
    output: dict[str, Any] | None
    deadline: datetime | None
    started_at: datetime | None
    """When the first try began; None: with this one."""
    traceparent: str | None

    @classmethod
    def load(cls, row: dict[str, Any]) -> "Leased":
        return cls(
            run_id=UUID(row["run_id"]),
            tenant_id=row["tenant_id"],
            pipeline=row["pipeline"],
            stage=row["stage"],
            state=row["state"],
            round=row["round"],
            attempt=row["attempt"],
            takeovers=row["takeovers"],
            fence=row["fence"],
            run_state=row["run_state"],
            input=row["input"],
            input_type=row["input_type"],
            input_id=UUID(row["input_id"]),
            job=row["job"],
            output=row["output"],
            deadline=_time(row["deadline"]),
            started_at=_time(row["started_at"]),
            traceparent=row["traceparent"],
        )

    def following(self, stage: str, item: Item, round: int, fence: int) -> "Leased":
        """The step that the commit of `item` began for this worker."""
        return replace(
            self, stage=stage, state=StepState.RUNNING, round=round, attempt=1, takeovers=0, fence=fence, run_state=RunState.RUNNING,
            input=item["output"], input_type=item["output_type"], input_id=item["event_id"], job=None, output=None, deadline=None, started_at=None,
        )  # fmt: skip

    @property
    def key(self) -> tuple[UUID, str]:
        return self.run_id, self.stage


def done(step: Leased, event: Event) -> Item:
    """The stage gave its event."""
    kind = event.topic
    item: Item = {"outcome": "done", "output": event.dump(), "output_type": kind, "event_id": event_id(step.run_id, step.stage, step.round, kind)}
    return item


def waiting(step: Leased, event: JobStarted, stage: Stage, every: timedelta, deadline: timedelta, now: datetime) -> Item:
    """The stage started a job: the run waits for it, asks after it, and gives up at the deadline."""
    assert stage.watcher is not None
    event = event.model_copy(update={"deadline": now + deadline})
    return {
        "outcome": "waiting",
        "output": event.dump(),
        "output_type": event.topic,
        "event_id": event_id(step.run_id, step.stage, step.round, event.topic),
        "engine": stage.watcher.engine,
        "job_id": event.job_id,
        "completion_type": stage.watcher.gives.topic,
        "after": every.total_seconds(),
        "deadline": deadline.total_seconds(),
    }


def found(step: Leased, event: Event, stage: Stage, job_id: str) -> Item:
    """The watcher found the job finished before anybody called back."""
    assert stage.watcher is not None
    return done(step, event) | {"engine": stage.watcher.engine, "job_id": job_id}


def look_again(after: timedelta, why: TryAgain | None = None) -> Item:
    """The job runs on, or the engine does not answer: ask again later."""
    item: Item = {"outcome": "waiting", "after": jittered(why.after if why and why.after else after).total_seconds()}
    return item if why is None else item | {"code": why.code, "error": why.sentence, "waiting_for": why.waiting_for}


def unread(job_id: str, topic: str) -> Item:
    """The deadline is over, but the job's completion may lie on Kafka unread: an end now would be one that the engine has contradicted."""
    sentence = f"job {job_id} is past its deadline; the run times out when {topic} is read up to where it ended then, and no completion was there"
    return look_again(SOON, TryAgain(sentence, code="completions_unread", waiting_for="kafka"))


def try_again(step: Leased, stage: Stage, retry: Retry, why: TryAgain, now: datetime) -> Item:
    """Another attempt later, under the same key; the end when the attempts or the time for them are used up."""
    if not why.free and step.attempt >= retry.attempts:
        return give_up(step, stage, GiveUp(f"{why.sentence} (after {step.attempt} attempts)", code=why.code))
    wait = jittered(why.after if why.after is not None else retry.wait(step.attempt))
    if _too_late(step, retry, now + wait):
        return give_up(step, stage, GiveUp(f"{why.sentence} (tried since {step.started_at:%Y-%m-%d %H:%M} UTC)", code=why.code))
    return {
        "outcome": "retry",
        "after": wait.total_seconds(),
        "cost": 0 if why.free else 1,
        "code": why.code,
        "error": why.sentence,
        "waiting_for": why.waiting_for,
        "settle": stage.when_cancelled == "settle",
    }


def job_failed(step: Leased, stage: Stage, retry: Retry, failure: Failure, now: datetime) -> Item:
    """The remote job ended badly: the next round starts another one, under a new key."""
    if not failure.again or step.attempt >= retry.attempts or _too_late(step, retry, now + retry.wait(step.attempt)):
        return give_up(step, stage, GiveUp(failure.sentence, code=failure.code))
    return {
        "outcome": "retry",
        "next_round": True,
        "after": jittered(retry.wait(step.attempt)).total_seconds(),
        "code": failure.code,
        "error": failure.sentence,
    }


def give_up(step: Leased, stage: Stage, why: GiveUp) -> Item:
    """The run ends here; or goes on with a warning when the stage is not critical."""
    if not stage.critical and step.run_state != RunState.CANCELLING:
        return {"outcome": "skipped", "code": why.code, "error": why.sentence, "event_id": event_id(step.run_id, step.stage, step.round, "skipped")}
    return {"outcome": "failed", "final": why.outcome, "code": why.code, "error": why.sentence}


def timed_out(step: Leased, job_id: str, waited: str) -> Item:
    """The job did not end by the deadline."""
    sentence = f"job {job_id} did not end within {waited}; it was asked to cancel. Look at the engine, then `tidemill retry {step.run_id}`"
    return {"outcome": "failed", "final": RunState.TIMED_OUT, "code": "job_deadline", "error": sentence}


def cancelled() -> Item:
    return {"outcome": "failed", "final": RunState.CANCELLED, "code": "cancelled", "error": "cancelled by request"}


def _too_late(step: Leased, retry: Retry, then: datetime) -> bool:
    return step.started_at is not None and then > step.started_at + retry.within


def _time(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None


def jittered(wait: timedelta) -> timedelta:
    """Up to 10 % longer, so that steps that failed together do not come back together."""
    return wait * (1 + random.random() / 10)
