"""A run as its page draws it: the pipeline's stages with where each of them is, and bars that show where the time went."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.event import Event
from streams.ledger.rows import Step
from streams.pipelines import Pipelines


@dataclass(frozen=True, slots=True)
class Node:
    """One stage in the graph; `step` is None when the run has not come so far."""

    name: str
    doc: str
    step: Step | None
    state: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a step's time went, in percent of the whole run."""

    stage: str
    state: str
    queue: tuple[float, float]
    work: tuple[float, float]
    wait: tuple[float, float]


def nodes(pipelines: Pipelines, pipeline: str, steps: Sequence[Step]) -> list[Node]:
    """The pipeline's stages in order, then steps of stages that it no longer has."""
    by_stage = {step.stage: step for step in steps}
    known = pipelines.by_name.get(pipeline)
    declared = [(stage.name, stage.doc) for stage in known.stages] if known else []
    others = [(name, "") for name in by_stage if name not in dict(declared)]
    return [Node(name, doc, by_stage.get(name), by_stage[name].state if name in by_stage else "not reached") for name, doc in declared + others]


def bars(steps: Sequence[Step], now: datetime) -> list[Bar]:
    """One bar a step on a common scale."""
    if not steps:
        return []
    begin = min(step.ready_at for step in steps)
    end = max(step.finished_at or now for step in steps)
    span = max((end - begin).total_seconds(), 0.001)

    def piece(first: datetime | None, last: datetime | None) -> tuple[float, float]:
        if first is None or last is None or last < first:
            return (0.0, 0.0)
        return (round((first - begin).total_seconds() / span * 100, 2), round((last - first).total_seconds() / span * 100, 2))

    found = []
    for step in steps:
        over = step.finished_at or now
        started = step.started_at or over
        queue, work = piece(step.ready_at, started), piece(step.started_at, step.waiting_at or over)
        found.append(Bar(step.stage, step.state, queue, work, piece(step.waiting_at, over)))
    return found


@dataclass(frozen=True, slots=True)
class Field:
    """One knob of a request, as a form shows it."""

    name: str
    kind: str
    default: Any
    low: int | None
    high: int | None
    help: str


def knobs(entry: type[Event]) -> list[Field]:
    """The knobs that the entry event's schema declares for its configuration, so that form and check never differ."""
    schema = entry.model_json_schema(by_alias=True)
    for properties in schema.get("$defs", {}).values():
        return [_field(name, facts) for name, facts in properties.get("properties", {}).items()]
    return []


def _field(name: str, facts: dict[str, Any]) -> Field:
    kind = "number" if facts.get("type") in ("integer", "number") else "text"
    return Field(name, kind, facts.get("default"), facts.get("minimum"), facts.get("maximum"), facts.get("description", ""))
