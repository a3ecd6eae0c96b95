"""The web application put together: probes, API, documents and pages behind one door."""

from collections.abc import Collection

from fastapi import Depends, FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from streams.web import api, asyncapi, backfill, commands, everyone, journal, metrics, pages, pauses, probes, quality, schedules
from streams.web.errors import speak_json
from streams.web.guard import Guard
from streams.web.parts import Parts, refuse_while_set_back

LOCAL = ("127.0.0.1", "localhost", "::1")


def make_web(parts: Parts, *, hosts: Collection[str] = ()) -> ASGIApp:
    """The application as uvicorn serves it. `hosts`: names it answers for beside this machine's own."""
    app = FastAPI(title="Tidemill", version="1", docs_url=None, redoc_url=None)
    app.state.parts = parts
    speak_json(app)
    for part in (probes, metrics, asyncapi, api, commands, everyone, pauses, schedules, backfill, quality, journal, pages):
        app.include_router(part.router, dependencies=[Depends(refuse_while_set_back)])
    app.mount("/static", StaticFiles(packages=[("streams.web", "static")]), name="static")
    return Guard(app, hosts={*LOCAL, *hosts})
