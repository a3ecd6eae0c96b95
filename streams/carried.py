"""The pipelines that this platform carries, as CLI, API and page show them: wiring, whether paused, when next, how the last run ended."""

from dataclasses import asdict
from typing import Any, Protocol

from streams.ledger.rows import Standing
from streams.pipelines import Pipelines
from streams.stage import Stage


class Asked(Protocol):
    """What is read of a pipeline's runs."""

    async def run_counts(self, pipeline: str | None = None) -> dict[str, int]: ...

    async def standing(self, pipeline: str) -> Standing: ...


async def carried(reader: Asked, pipelines: Pipelines) -> list[dict[str, Any]]:
    """One document a pipeline: `runs` {state: how many}, `paused`, `next_due`, `last` (the run that ended last, or None), `stages`."""
    return [
        {
            "name": each.name,
            "version": each.version,
            "takes": each.entry.topic,
            "runs": await reader.run_counts(each.name),
            **asdict(await reader.standing(each.name)),
            "stages": [_stage(stage) for stage in each.stages],
        }
        for each in pipelines.all
    ]


def _stage(stage: Stage) -> dict[str, Any]:
    gives = [kind.topic for kind in stage.gives]
    return {"name": stage.name, "doc": stage.doc, "takes": stage.takes.topic, "gives": gives, "critical": stage.critical}
