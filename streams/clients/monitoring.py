"""The monitoring service as the pipelines speak of it: raise an alert, once a transition of an incident."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel

from streams.clients.http import Neighbour, open_neighbour
from streams.settings import MonitoringSettings

Severity = Literal["low", "medium", "high", "critical"]


class Monitoring(Protocol):
    """Takes alerts."""

    async def raise_alert(
        self, *, incident: UUID, transition: str, severity: Severity, title: str, message: str, tenant_id: str | None, details: dict[str, Any]
    ) -> None:
        """Send one transition (`opened`, `worse`, `resolved`) of an incident. Doing twice is like doing once."""
        ...


class _Alert(BaseModel):
    severity: Severity
    title: str
    message: str
    tenant_id: str | None
    details: dict[str, Any]


class _Taken(BaseModel):
    pass


class HttpMonitoring:
    """The monitoring service over HTTP."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    async def raise_alert(
        self, *, incident: UUID, transition: str, severity: Severity, title: str, message: str, tenant_id: str | None, details: dict[str, Any]
    ) -> None:
        body = _Alert(severity=severity, title=title, message=message, tenant_id=tenant_id, details=details)
        await self._neighbour.post("/api/v1/alerts", body, _Taken, key=f"alert:{incident}:{transition}")


@asynccontextmanager
async def open_monitoring(settings: MonitoringSettings) -> AsyncIterator[Monitoring]:
    async with open_neighbour("monitoring", settings) as neighbour:
        yield HttpMonitoring(neighbour)
