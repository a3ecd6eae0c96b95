"""Every error leaves as {code, message}: what the caller did wrong, or what is away; never a traceback."""

from typing import Any

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from streams.ledger.connection import is_outage
from streams.ledger.reader import NotFound
from streams.requests import SENTENCES
from streams.web.guard import problem
from streams.web.templating import page

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class Problem(Exception):
    """What a route answers when it cannot do what was asked."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def speak_json(app: FastAPI) -> None:
    """Give the application its error answers."""

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return refuse(request, error.status, error.code, error.message)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, NotFound)
        return refuse(request, 404, error.code, error.sentence)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fields = [{"field": ".".join(str(part) for part in each["loc"]), "message": each["msg"]} for each in error.errors()]
        first = fields[0] if fields else {"field": "body", "message": "cannot be read"}
        return refuse(request, 422, "invalid", f"{first['field']}: {first['message']}", fields=fields)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refuse(request, error.status_code, _CODES.get(error.status_code, "http_error"), str(error.detail))

    app.add_exception_handler(Problem, told)
    app.add_exception_handler(NotFound, unknown)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    for kind in (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        app.add_exception_handler(kind, outage)
    app.add_exception_handler(Exception, crashed)


def refuse(request: Request, status: int, code: str, message: str, **more: Any) -> Response:
    """An error as JSON, or as a page for somebody who looks at pages."""
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        return page("error.html", status=status, code=code, message=message)
    return problem(status, code, message, **more)


async def outage(request: Request, error: Exception) -> Response:
    """The ledger is away, or cannot store what came in, such as NUL in a text."""
    if is_outage(error):
        return refuse(request, 503, "ledger_away", "the ledger (PostgreSQL) cannot be reached; nothing was changed, try again when /readyz is green")
    if isinstance(error, asyncpg.DataError):
        return refuse(request, 422, "unstorable", SENTENCES["unstorable"].format(sqlstate=error.sqlstate))
    raise error


async def crashed(request: Request, error: Exception) -> Response:
    """A defect of ours; Starlette raises it on, so that the server logs it with its traceback."""
    return refuse(request, 500, "internal", "this request met a defect; its details are in the log of the view process")
