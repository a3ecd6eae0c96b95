"""A pipeline of one stage that starts a job at the stub and waits for it; the stub never says that it is done."""

from datetime import timedelta

from bench.pipeline import BenchServices
from schemas.training import TrainingCompleted, TrainingRequested, TrainingStarted
from streams.stage import Pipeline, stage


@stage()
async def train(event: TrainingRequested, use: BenchServices) -> TrainingStarted:
    """Start the job."""
    await use.post("train", event)
    return event.then(TrainingStarted, job_id=f"job-{event.tenant_id}")


@train.watch(engine="bench", every=lambda s: s.ml_engine.poll_every, deadline=lambda s: timedelta(days=1))
async def ask(started: TrainingStarted, use: BenchServices) -> TrainingCompleted | None:
    """Ask after it: not done yet."""
    await use.get("ask", started)
    return None


PIPELINES = (Pipeline("training", (train,), version="bench-wait-1"),)
