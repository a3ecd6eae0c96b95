"""A small real monitoring service: keeps the alerts it is sent and shows them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html import escape
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.types import ASGIApp

from reference.database import Database
from reference.service import EffectId, assemble, open_database, run
from reference.settings import ReferenceSettings
from schemas.tenant import TenantId

SCHEMA = """
create table if not exists alerts(
    id integer primary key, alert_id text unique not null, at text not null, severity text not null,
    title text not null, message text not null, tenant_id text, details text not null
);
create index if not exists alerts_tenant on alerts(tenant_id, id);
"""


class Alert(BaseModel):
    """Body of `POST /api/v1/alerts`."""

    severity: Literal["low", "medium", "high", "critical"]
    title: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    message: Annotated[str, StringConstraints(max_length=10_000)] = ""
    tenant_id: TenantId | None = None
    """None: about the platform itself, a neighbour that is down for instance."""
    details: dict[str, Any] = Field(default_factory=dict)


class Alerts:
    """The alerts in the service's database, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database.create(SCHEMA)

    async def add(self, alert_id: str, alert: Alert) -> None:
        """Keep an alert; the same id again is the same alert."""
        row = (alert_id, datetime.now(UTC).isoformat(), alert.severity, alert.title, alert.message, alert.tenant_id, json.dumps(alert.details))
        sql = "insert or ignore into alerts(alert_id, at, severity, title, message, tenant_id, details) values (?,?,?,?,?,?,?)"
        await self._database.run(lambda c: c.execute(sql, row))

    async def list(self, tenant: str | None = None) -> list[dict[str, Any]]:
        sql = """select alert_id, at, severity, title, message, tenant_id, details from alerts
            where ?1 is null or tenant_id = ?1 order by id desc limit 1000"""
        return await self._database.run(lambda c: [dict(row) | {"details": json.loads(row["details"])} for row in c.execute(sql, (tenant,))])


def routes(alerts: Alerts) -> APIRouter:
    """The monitor's URLs."""
    router = APIRouter()

    @router.post("/api/v1/alerts", status_code=201)
    async def add(alert: Alert, effect: EffectId) -> dict[str, str]:
        await alerts.add(effect, alert)
        return {"alert_id": effect}

    @router.get("/api/v1/alerts")
    async def show(tenant: str | None = None) -> list[dict[str, Any]]:
        return await alerts.list(tenant)

    @router.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return render(await alerts.list())

    return router


def render(alerts: list[dict[str, Any]]) -> str:
    """The alerts as one page."""
    columns = ("at", "severity", "tenant_id", "title", "message")
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(alert[name] or ''))}</td>" for name in columns) + "</tr>" for alert in alerts)
    head = "".join(f"<th>{name}</th>" for name in columns)
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}"
    body = f"<table><tr>{head}</tr>{lines}</table>" if alerts else "<p>No alerts.</p>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Alerts</title><style>{style}</style><h1>Alerts</h1>{body}</html>'


def build(settings: ReferenceSettings) -> ASGIApp:
    """The monitor as an ASGI application."""
    database = open_database("monitoring", settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    return assemble("monitoring", settings, database, routes(Alerts(database)), lifespan)


if __name__ == "__main__":
    own = ReferenceSettings()
    run(build(own), own)
