"""A pipeline of one stage that makes one call: what is measured here is who is asked when, not what a run does."""

from bench.pipeline import BenchServices
from schemas.training import CacheWarmed, TrainingRequested
from streams.stage import Pipeline, stage


@stage()
async def touch(event: TrainingRequested, use: BenchServices) -> CacheWarmed:
    """Let the stub note when it was this tenant's turn."""
    await use.get("touch", event)
    return event.then(CacheWarmed, items=1)


PIPELINES = (Pipeline("training", (touch,), version="bench-schedules-1"),)
