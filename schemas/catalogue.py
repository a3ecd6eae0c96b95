"""Every event by its topic: what a reader can meet on Kafka."""

from schemas.event import Event
from schemas.quality import AlertRaised, AlertResolved, DqDecided, DqEvaluated, DqTick
from schemas.training import (
    CacheWarmed,
    IndexBuilt,
    IndexStarted,
    ModelDeployed,
    RunAccepted,
    RunFinished,
    TrainingCompleted,
    TrainingRequested,
    TrainingStarted,
    TrainingValidated,
)

EVENTS: dict[str, type[Event]] = {
    kind.topic: kind
    for kind in (
        TrainingRequested,
        TrainingValidated,
        TrainingStarted,
        TrainingCompleted,
        IndexStarted,
        IndexBuilt,
        ModelDeployed,
        CacheWarmed,
        RunAccepted,
        RunFinished,
        DqTick,
        DqEvaluated,
        DqDecided,
        AlertRaised,
        AlertResolved,
    )
}

FOREIGN = frozenset({TrainingRequested.topic, TrainingCompleted.topic, IndexBuilt.topic, DqTick.topic})
"""Topics on which others may speak; on all the rest only the runtime does (DECISIONS 12)."""
