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
    checks: list[dict[str, Any]] = Field(default_factory=list)


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
