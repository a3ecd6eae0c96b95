"""The tenants' standing in data quality, as the pipelines speak of it; the ledger keeps it (`streams/quality.py`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

from schemas.context import NAMESPACE
from schemas.quality import DqEvaluated


@dataclass(frozen=True, slots=True)
class TenantStanding:
    """What is known of a tenant before it is measured."""

    settings: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    """What the last tick left for this one."""
    watched: bool = True
    """False: the warehouse did not know the tenant last time."""
    slow: bool = False
    """Whether it took too long last time."""
    samples: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metric -> week -> value, of the hour of the week that was asked for."""


@dataclass(frozen=True, slots=True)
class LastVerdict:
    """What the gate decides by."""

    watched: bool
    """False: there was nothing to measure, or nobody has yet."""
    verdict: str | None
    failed: list[str]
    """Names of the checks that failed or could not be answered."""
    run_id: UUID | None
    at: datetime | None
    allowed: str | None = None
    """Why the tenant may train all the same, while an allowance holds."""
    gate: str | None = None
    """The tenant's own setting."""


@dataclass(frozen=True, slots=True)
class IncidentState:
    """A check's newest incident."""

    id: UUID
    open: bool
    severity: str
    told_at: datetime
    resolved_at: datetime | None
    calm: int
    flaps: int


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided about one check; `after` is its incident from now on, `kind` the transition that is told."""

    check: str
    action: str
    reason: str
    severity: str | None
    title: str = ""
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    after: IncidentState | None = None
    listed: bool = True
    """False: healthy and known to be so."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a verdict."""

    decisions: list[dict[str, Any]]
    quiet: int


Decide = Callable[[DqEvaluated, Mapping[str, IncidentState], datetime], Sequence[Change]]
"""From a verdict, each check's newest incident and the time: what changes."""


class Quality(Protocol):
    """Verdicts, baselines, incidents and allowances."""

    def now(self) -> datetime:
        """The clock of all due logic."""
        ...

    async def standings(self, tenants: Sequence[str], hour: int) -> dict[str, TenantStanding]:
        """What is known of these tenants, with the samples of an hour of the week."""
        ...

    async def attempts(self, runs: Sequence[UUID], stage: str) -> dict[UUID, int]:
        """At which attempt a stage of these runs is: the first is 1."""
        ...

    async def record(self, events: Sequence[DqEvaluated], decide: Decide) -> list[Recorded]:
        """Keep each verdict and what follows from it, whole or not at all; the same measurement of a run is recorded once, however often asked."""
        ...

    async def last_verdict(self, tenant_id: str) -> LastVerdict | None:
        """The newest verdict, with the tenant's own gate and an allowance that holds, which count before there is one; None: no such tenant."""
        ...

    async def ask_to_measure(self, tenant_id: str, training_run: UUID) -> bool:
        """Have the tenant measured for the sake of a run that waits for it, anew when that ended without a verdict; False when nobody here can,
        or when it was. Raises TryAgain when it may not be asked for now."""
        ...

    async def let_through(self, tenants: Sequence[str], reason: str) -> dict[str, UUID]:
        """Ask again for the trainings that were blocked, once for each blocked run; gives the new run of each tenant that had one."""
        ...


def incident_id(tenant_id: str, check: str, begun_by: UUID | datetime | None) -> UUID:
    """The incident that a verdict of this run, or an absence since then, opens for the check: the same one however often it is looked at."""
    return uuid5(NAMESPACE, f"incident\n{tenant_id}\n{check}\n{begun_by}")
