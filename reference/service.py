"""What the three neighbours have in common: one ASGI application around their routes, and one way to run it."""

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.types import ASGIApp

from reference.database import Database
from reference.errors import speak_json
from reference.faults import Faults
from reference.gate import Gate
from reference.journal import Idempotency, Journal
from reference.settings import ReferenceSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def _effect_id(request: Request) -> str:
    return str(request.state.effect_id)


def _idempotency_key(request: Request) -> str | None:
    return request.state.idempotency_key  # type: ignore[no-any-return]  # Starlette's state is untyped


EffectId = Annotated[str, Depends(_effect_id)]
"""The id of what a call creates: the same each time the call is made under one Idempotency-Key."""
IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]


def open_database(name: str, settings: ReferenceSettings) -> Database:
    """The service's own file in the data folder."""
    return Database(settings.data / f"{name}.sqlite")


def assemble(name: str, settings: ReferenceSettings, database: Database, routes: APIRouter, lifespan: Lifespan | None = None) -> ASGIApp:
    """The service as an ASGI application: gate, faults, journal, then its routes."""
    journal = Journal(database)
    app = FastAPI(title=f"Tidemill reference: {name}", lifespan=lifespan, docs_url=None, redoc_url=None)
    speak_json(app)
    faults = Faults(Idempotency(app, journal), allowed=settings.allow_faults)
    app.include_router(_common(name, journal))
    app.include_router(faults.routes())
    app.include_router(routes)
    return Gate(faults, settings.hosts, settings.max_body)


def _common(name: str, journal: Journal) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"service": name, "status": "ok"}

    @router.get("/journal")
    async def list_calls(tenant: str | None = None) -> list[dict[str, Any]]:
        return await journal.list(tenant)

    return router


def run(app: ASGIApp, settings: ReferenceSettings) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight then have a second to end."""
    import uvicorn  # tests of the application need no server

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after an orderly end, which is no failure
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, log_config=None, timeout_graceful_shutdown=1, server_header=False)
