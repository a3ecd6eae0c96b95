"""The pipelines a worker carries, looked up by what events and rows know of them: an entry topic, a stage name, a completion topic."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from schemas.event import Event
from streams.settings import Settings, load
from streams.stage import Pipeline, Retry, Stage

ECHO_GRACE = timedelta(seconds=10)
"""With eager hand-over off: how long a step waits for its event's return from Kafka before it starts without."""


class Pipelines:
    """All pipelines of this platform, with the settings that shape their steps; refuses to be made of some that cannot be told apart."""

    def __init__(self, pipelines: Sequence[Pipeline], settings: Settings) -> None:
        _tell_apart(pipelines)
        self.all, self.settings = tuple(pipelines), settings
        self.by_name = {each.name: each for each in self.all}
        self.by_entry = {each.entry.topic: each for each in self.all}

    @classmethod
    def load(cls, settings: Settings) -> "Pipelines":
        """The pipelines that the setting `pipelines` names; the runtime itself knows none."""
        return cls(load(settings.pipelines), settings)

    @cached_property
    def completions(self) -> dict[str, list[tuple[Pipeline, Stage]]]:
        """Completion topic -> the stages that wait for it."""
        found: dict[str, list[tuple[Pipeline, Stage]]] = {}
        for pipeline in self.all:
            for stage in pipeline.stages:
                if stage.watcher:
                    found.setdefault(stage.watcher.gives.topic, []).append((pipeline, stage))
        return found

    @cached_property
    def topics(self) -> list[str]:
        """Every topic the agents react to: whatever feeds a stage or ends a wait."""
        fed = [stage.takes.topic for pipeline in self.all for stage in pipeline.stages]
        return list(dict.fromkeys([*fed, *self.completions]))

    @cached_property
    def feeds(self) -> dict[str, list[Stage]]:
        """Topic -> the stages whose steps an event on it starts when eager hand-over is off."""
        found: dict[str, list[Stage]] = {}
        for pipeline in self.all:
            for stage in pipeline.stages:
                found.setdefault(stage.takes.topic, []).append(stage)
        return found

    @cached_property
    def cpu_stages(self) -> list[str]:
        return [stage.name for pipeline in self.all for stage in pipeline.stages if stage.cpu]

    @cached_property
    def batch_stages(self) -> dict[str, Stage]:
        return {stage.name: stage for pipeline in self.all for stage in pipeline.stages if stage.batch}

    @cached_property
    def limits(self) -> dict[str, int]:
        """Limits in force: name -> how many steps may hold it."""
        most = self.settings.ml_engine.max_jobs
        return {"ml_engine": most} if most is not None else {}

    def limit_of(self, stage: Stage) -> str | None:
        return stage.limit if stage.limit in self.limits else None

    def first(self, pipeline: Pipeline) -> dict[str, Any]:
        """How the ledger begins a run of this pipeline."""
        stage = pipeline.stages[0]
        return {"stage": stage.name, "limit": self.limit_of(stage), "type": stage.takes.topic}

    def unsettled(self, pipeline: Pipeline) -> list[str]:
        """Stages whose steps, once begun, have something to do before a cancelled run may end."""
        return [stage.name for stage in pipeline.stages if stage.when_cancelled != "stop"]

    def next(self, pipeline: Pipeline, stage: str, *, hold: bool = False) -> dict[str, Any] | None:
        """How the ledger goes on after `stage`; `hold`: wait for the event's echo."""
        after = pipeline.after(stage)
        if after is None:
            return None
        step: dict[str, Any] = {"stage": after.name, "limit": self.limit_of(after)}
        if hold:
            step["hold"] = ECHO_GRACE.total_seconds()
        return step

    def retry(self, stage: Stage) -> Retry:
        own = self.settings.retry
        return stage.retry or Retry(attempts=own.attempts, every=own.every, within=own.within)

    def event(self, kind: type[Event], data: dict[str, Any], run_id: UUID) -> Event:
        """The event in a ledger row, known to be about its run."""
        return kind.model_validate(data).of_run(run_id)


def _tell_apart(pipelines: Sequence[Pipeline]) -> None:
    """A request and a completion say only their topic, and a step in the dispatcher's question only its stage: each must mean one."""
    seen: dict[str, tuple[Pipeline, object]] = {}
    for pipeline in pipelines:
        marks: list[tuple[str, object]] = [(f"the name {pipeline.name}", pipeline), (f"requests on {pipeline.entry.topic}", pipeline)]
        for stage in pipeline.stages:
            marks.append((f"a stage {stage.name} of their own", stage))
            if stage.watcher:
                marks.append((f"completions on {stage.watcher.gives.topic}", pipeline))
        for mark, what in marks:
            other, before = seen.setdefault(mark, (pipeline, what))
            if before is not what:
                raise TypeError(f"pipelines {other.name} and {pipeline.name} both have {mark}; only one may")
