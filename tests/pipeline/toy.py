"""A pipeline with the shape of the real one and stages of two lines, whose neighbours are lists."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from schemas.quality import DqEvaluated, DqTick
from schemas.training import CacheWarmed, IndexBuilt, ModelDeployed, TrainingCompleted, TrainingRequested, TrainingStarted, TrainingValidated
from streams.stage import Pipeline, Retry, stage
from streams.step import current


@dataclass
class Neighbours:
    """What the toy stages did, and how they are to misbehave."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    """(stage, idempotency key) of each call."""
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    """Exceptions a stage raises, one a call, before it works."""
    finding: Any = None
    """What the watcher finds: None means that the job runs on."""
    cancelled: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)

    def call(self, name: str) -> str:
        step = current.get()
        assert step is not None
        step.check_lease()
        self.calls.append((name, step.key))
        if self.fail.get(name):
            raise self.fail[name].pop(0)
        return step.key


RETRY = Retry(attempts=3, every=timedelta(minutes=5))


@stage(retry=RETRY)
async def validate(event: TrainingRequested, use: Neighbours) -> TrainingValidated:
    """Look at the data."""
    use.call("validate")
    return event.then(TrainingValidated, bucket="b", prefix="p", files=1, bytes=1, fingerprint="f")


@stage(retry=RETRY, limit="ml_engine", when_cancelled="ask")
async def train(event: TrainingValidated, use: Neighbours) -> TrainingStarted:
    """Start the job."""
    return event.then(TrainingStarted, job_id=f"job-{use.call('train')}")


async def cancel_job(started: TrainingStarted, use: Neighbours) -> None:
    use.cancelled.append(started.job_id)


@train.watch(engine="toy", every=lambda _: timedelta(minutes=1), deadline=lambda _: timedelta(hours=6), cancel=cancel_job)
async def ask(started: TrainingStarted, use: Neighbours) -> TrainingCompleted | None:
    """Ask after the job."""
    use.call("watch")
    return started.then(TrainingCompleted, job_id=started.job_id, **use.finding) if use.finding else None


@stage(retry=RETRY)
async def index(event: TrainingCompleted, use: Neighbours) -> IndexBuilt:
    """Build the index."""
    use.call("index")
    return event.then(IndexBuilt, index_path="indices/x", vectors=1, dim=1, kind="Flat", sha256="0" * 64)


@stage(retry=RETRY, when_cancelled="settle")
async def deploy(event: IndexBuilt, use: Neighbours) -> ModelDeployed:
    """Go live."""
    use.call("deploy")
    return event.then(ModelDeployed, version=1)


@stage(retry=RETRY, critical=False)
async def warm(event: ModelDeployed, use: Neighbours) -> CacheWarmed:
    """Warm the cache."""
    use.call("warm")
    return event.then(CacheWarmed, items=1)


@stage(batch=3, retry=RETRY)
async def measure(events: list[DqTick], use: Neighbours) -> list[DqEvaluated]:
    """Judge many tenants in one call; a tenant called `poison` spoils the whole call."""
    use.batches.append([event.key for event in events])
    if any(event.key == "poison" for event in events):
        raise RuntimeError("one of them is poison")
    return [event.then(DqEvaluated, verdict="pass") for event in events]


QUALITY = Pipeline("quality", (measure,), version="1")
TOY = Pipeline("training", (validate, train, index, deploy, warm), version="1")
