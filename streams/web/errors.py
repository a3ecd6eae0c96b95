"""Every error leaves as {code, message}: what the caller did wrong, or what is away; never a traceback."""

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from streams.ledger.connection import is_outage
from streams.ledger.reader import NotFound
from streams.web.guard import problem

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class Problem(Exception):
    """What a route answers when it cannot do what was asked."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def speak_json(app: FastAPI) -> None:
    """Give the application its error answers."""

    async def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return problem(error.status, error.code, error.message)

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, NotFound)
        return problem(404, error.code, error.sentence)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        fields = [{"field": ".".join(str(part) for part in each["loc"]), "message": each["msg"]} for each in error.errors()]
        first = fields[0] if fields else {"field": "body", "message": "cannot be read"}
        return problem(422, "invalid", f"{first['field']}: {first['message']}", fields=fields)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, _CODES.get(error.status_code, "http_error"), str(error.detail))

    app.add_exception_handler(Problem, told)
    app.add_exception_handler(NotFound, unknown)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    for kind in (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        app.add_exception_handler(kind, outage)
    app.add_exception_handler(Exception, crashed)


async def outage(request: Request, error: Exception) -> JSONResponse:
    """The ledger is away, or refuses the statement."""
    if is_outage(error):
        return problem(503, "ledger_away", "the ledger (PostgreSQL) cannot be reached; nothing was changed, try again when /readyz is green")
    return await crashed(request, error)


async def crashed(_: Request, error: Exception) -> JSONResponse:
    """A defect of ours; Starlette raises it on, so that the server logs it with its traceback."""
    return problem(500, "internal", "this request met a defect; its details are in the log of the view process")
