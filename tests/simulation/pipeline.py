"""A pipeline of six stages with one of each kind: plain, waiting with a limit, waiting, in batches, plain, and one that may fail."""

from datetime import timedelta

from schemas.quality import DqEvaluated
from schemas.training import (
    CacheWarmed,
    IndexBuilt,
    IndexStarted,
    ModelDeployed,
    TrainingCompleted,
    TrainingRequested,
    TrainingStarted,
    TrainingValidated,
)
from streams.stage import GiveUp, Pipeline, Retry, TryAgain, stage
from tests.simulation.neighbours import Job, Town

PATIENT = Retry(attempts=60, every=timedelta(minutes=5))
"""So many attempts that no run fails for want of them: whatever fails was refused."""
SHORT = timedelta(seconds=30)
ENGINE = "ml_engine"


@stage(retry=PATIENT, timeout=SHORT)
async def check(event: TrainingRequested, use: Town) -> TrainingValidated:
    """Look at the data."""
    reply = await use.service.command("check", event.tenant_id, {}, lambda key: {"fingerprint": key})
    return event.then(TrainingValidated, bucket="b", prefix="p", files=1, bytes=1, fingerprint=reply["fingerprint"])


@stage(retry=PATIENT, timeout=SHORT, limit=ENGINE)
async def train(event: TrainingValidated, use: Town) -> TrainingStarted:
    """Start the training job."""
    return event.then(TrainingStarted, job_id=await use.engine.start("train", event.tenant_id, {"data": event.fingerprint}))


async def cancel_training(started: TrainingStarted, use: Town) -> None:
    await use.engine.cancel_job(started.job_id, started.tenant_id)


@train.watch(engine=ENGINE, every=lambda s: s.ml_engine.poll_every, deadline=lambda s: s.ml_engine.deadline, cancel=cancel_training)
async def ask_training(started: TrainingStarted, use: Town) -> TrainingCompleted | None:
    """Ask after the training job."""
    status, job = await use.engine.status(started.job_id)
    if status == "pending":
        return None
    facts = job.facts if status == "completed" else {"error": "it diverged"}
    return started.then(TrainingCompleted, job_id=started.job_id, status=status, **facts)


@stage(retry=PATIENT, timeout=SHORT)
async def index(event: TrainingCompleted, use: Town) -> IndexStarted:
    """Let the engine build the index."""
    job = await use.engine.start("index", event.tenant_id, {"model_path": event.model_path})
    return event.then(IndexStarted, job_id=job, model_path=event.model_path)


async def cancel_index(started: IndexStarted, use: Town) -> None:
    await use.engine.cancel_job(started.job_id, started.tenant_id)


@index.watch(engine=ENGINE, every=lambda s: s.ml_engine.poll_every, deadline=lambda s: s.ml_engine.deadline, cancel=cancel_index)
async def ask_index(started: IndexStarted, use: Town) -> IndexBuilt | None:
    """Ask after the index job."""
    status, job = await use.engine.status(started.job_id)
    if status == "pending":
        return None
    return _built(started, status, job)


def _built(started: IndexStarted, status: str, job: Job) -> IndexBuilt:
    if status != "completed":
        raise GiveUp(f"index job {job.job_id} {status}", code=f"index_{status}")
    return started.then(IndexBuilt, job_id=job.job_id, **job.facts)


@stage(retry=PATIENT, timeout=SHORT)
async def deploy(event: IndexBuilt, use: Town) -> ModelDeployed:
    """Make the index live."""
    await use.service.command("deploy", event.tenant_id, {"index_path": event.index_path}, lambda key: {"live": key})
    return event.then(ModelDeployed, version=1)


@stage(retry=PATIENT, timeout=SHORT, batch=10)
async def grade(events: list[ModelDeployed], use: Town) -> list[DqEvaluated | Exception]:
    """Judge what is served, many at a time. A batch has no step in hand, so it only asks."""
    verdicts: list[DqEvaluated | Exception] = []
    for event in events:
        try:
            await use.service.question("grade")
        except TryAgain as error:
            verdicts.append(error)
        else:
            verdicts.append(event.then(DqEvaluated, verdict="pass"))
    return verdicts


@stage(retry=Retry(attempts=2, every=timedelta(seconds=2)), timeout=SHORT, critical=False)
async def warm(event: DqEvaluated, use: Town) -> CacheWarmed:
    """Warm the cache, or leave it."""
    await use.service.command("warm", event.tenant_id, {}, lambda key: {"warmed": key})
    return event.then(CacheWarmed, items=1)


TOY = Pipeline("training", (check, train, index, deploy, grade, warm), version="1")
