"""The events of the data-quality pipeline."""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from schemas.event import Event
from schemas.tenant import ALL_TENANTS, TenantId


class DqTick(Event):
    """It is time to look at a tenant's data; without a tenant, at everybody's."""

    topic: ClassVar[str] = "dq.tick"
    tenant_id: TenantId | None = None  # type: ignore[assignment]  # the one event that may concern all tenants
    slot: datetime | None = None

    @property
    def key(self) -> str:
        return self.tenant_id or ALL_TENANTS


class DqEvaluated(Event):
    """A tenant's data was measured and judged."""

    topic: ClassVar[str] = "dq.evaluated"
    verdict: Literal["pass", "warn", "fail", "error"]
    """fail: a check of severity high or critical failed; warn: a lesser one; error: something could not be measured, which is never a pass."""
    checks: list[dict[str, Any]] = Field(default_factory=list)
    """Each check with its number, threshold, status and severity."""
    watched: bool = True
    """False: the warehouse does not know the tenant, so there was nothing to measure and nothing is gated."""
    at: datetime | None = None
    """The moment as of which the data was measured."""
    profile: dict[str, Any] = Field(default_factory=dict)
    """Counters from which the next tick may count on, and the numbers that the baselines learn."""


class DqDecided(Event):
    """What follows from a verdict: for each check whether somebody is told, and why."""

    topic: ClassVar[str] = "dq.decided"
    verdict: Literal["pass", "warn", "fail", "error"]
    decisions: list[dict[str, Any]] = Field(default_factory=list)
    """{check, action, reason, severity, incident}; checks that were healthy and stay so are counted in `quiet`."""
    quiet: int = 0
    let_through: UUID | None = None
    """The training run that was accepted because data that blocked an earlier one is good again."""


class AlertRaised(Event):
    """An incident was opened or grew worse."""

    topic: ClassVar[str] = "alert.raised"
    incident: UUID
    severity: Literal["low", "medium", "high", "critical"]
    title: str
    details: dict[str, Any] = Field(default_factory=dict)


class AlertResolved(Event):
    """An incident is over."""

    topic: ClassVar[str] = "alert.resolved"
    incident: UUID
    severity: Literal["low", "medium", "high", "critical"]
    title: str
    details: dict[str, Any] = Field(default_factory=dict)
