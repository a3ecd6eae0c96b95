"""Second stage of training: the ML Engine gets a job; the run waits for its callback, and asks after it meanwhile."""

from schemas.training import TrainingCompleted, TrainingStarted, TrainingValidated
from streams.clients.ml_engine import JobStatus
from streams.services import Services
from streams.stage import GiveUp, TryAgain, stage
from streams.step import current

UNFINISHED = frozenset({"pending", "queued", "running"})
FINISHED = {"completed": "completed", "succeeded": "completed", "failed": "failed", "cancelled": "cancelled", "canceled": "cancelled"}


@stage(limit="ml_engine", when_cancelled="ask")
async def train(event: TrainingValidated, use: Services) -> TrainingStarted:
    """Ask the ML Engine to train on the valid data. The key makes doing twice like doing once: the engine answers with the same job."""
    step = current.get()
    assert step is not None, "the executor sets the step in hand"
    job = await use.ml_engine.train(
        tenant_id=event.tenant_id,
        bucket=event.bucket,
        path=event.prefix,
        config=event.training_config,
        output_path=f"models/{event.tenant_id}/{step.run_id}/{step.round}/",
    )
    return event.then(TrainingStarted, job_id=job)


async def cancel_job(started: TrainingStarted, use: Services) -> None:
    """The run does not want the job any more: tell the engine, so that it does not train for nobody."""
    await use.ml_engine.cancel(started.job_id)


@train.watch(engine="ml_engine", every=lambda s: s.ml_engine.poll_every, deadline=lambda s: s.ml_engine.deadline, cancel=cancel_job)
async def ask(started: TrainingStarted, use: Services) -> TrainingCompleted | None:
    """Ask after the job, in case the engine cannot call back. A job that goes back to pending is waited for: its first end counts."""
    job = await job_of(started.tenant_id, started.job_id, use)
    if job.status in UNFINISHED:
        return None
    return started.then(
        TrainingCompleted,
        job_id=started.job_id,
        status=FINISHED[job.status],
        model_path=job.model_path,
        metrics=job.metrics,
        error=job.error and job.error[:2000],
    )


async def job_of(tenant_id: str, job_id: str, use: Services) -> JobStatus:
    """What the engine says of our job, if it can be believed."""
    try:
        job = await use.ml_engine.job(job_id)
    except GiveUp as refused:  # the question, not the job: it runs on, and an end here would start another one beside it
        raise TryAgain(refused.sentence, code=refused.code) from refused
    if job is None:
        raise GiveUp(
            f"the ML Engine does not know the job {job_id} of {tenant_id}: it lost it, or it was pointed at another engine; "
            "look at its log, then `tidemill retry` the run, which starts a new job",
            code="job_forgotten",
        )
    if (job.job_id or job_id, job.tenant_id or tenant_id) != (job_id, tenant_id):
        raise TryAgain(f"asked after job {job_id} of {tenant_id}, the ML Engine told of another one; look at its log", code="ml_engine_lied")
    if job.status not in UNFINISHED and job.status not in FINISHED:
        raise TryAgain(
            f"the ML Engine says that job {job_id} is {job.status!a}, which this version of Tidemill does not know; upgrade it or the engine",
            code="unknown_job_status",
        )
    return job
