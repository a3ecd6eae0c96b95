"""The step being executed right now, as the clients see it: its idempotency key, its lease, and where its effects are noted.

The executor sets `current` around a stage; the HTTP client reads it. So no stage carries keys or leases through its code.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID


class LeaseLost(Exception):
    """Another worker owns the step by now: nothing more may be sent for it. The runtime drops the attempt silently."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One answered command to a neighbour: a row that no fence refuses."""

    key: str
    command: str  # "POST /api/v1/train"
    status: int
    request_sha256: bytes
    reply_sha256: bytes
    reply: dict[str, Any]
    sent_at: datetime


@dataclass(slots=True)
class Step:
    """What is known of the step in hand."""

    run_id: UUID
    tenant_id: str
    pipeline: str
    stage: str
    round: int
    attempt: int
    fence: int
    lease_held: Callable[[], bool]
    deadline: float
    """Event-loop time after which the stage is cut off."""
    traceparent: str | None = None
    cancelling: bool = False
    """The run is being cancelled: what an earlier try left behind is to be settled, and nothing new begun."""
    effects: list[Effect] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Stable over crashes, transport retries and lost leases; only a terminal answer opens the next round."""
        return f"{self.run_id}:{self.stage}:{self.round}"

    def check_lease(self) -> None:
        """Raise `LeaseLost` unless this worker may still speak for the step."""
        if not self.lease_held():
            raise LeaseLost(self.key)


current: ContextVar[Step | None] = ContextVar("current_step", default=None)
