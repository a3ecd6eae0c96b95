"""How a neighbour says no: a status, a code and a sentence, always as JSON."""

from collections.abc import Callable

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Send


class Refused(Exception):
    """A call that is answered with an error; `extra` fields go into the answer beside code and message."""

    def __init__(self, status: int, code: str, message: str, **extra: object) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.extra = status, code, message, extra

    @property
    def body(self) -> dict[str, object]:
        return {"code": self.code, "message": self.message, **self.extra}


class Failed(Exception):
    """Work on data that cannot succeed: a code and a sentence, also across the border of a child process."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code, self.sentence = code, sentence

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}"


async def answer(send: Send, refused: Refused) -> None:
    """Send an error from below FastAPI."""
    body = orjson.dumps(refused.body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.code == "in_progress":
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _json(status: int, body: dict[str, object]) -> JSONResponse:
    return JSONResponse(body, status_code=status)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return _json(error.status, error.body)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Name the field and the rule, never the value: bodies may hold other people's data."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _json(422, {"code": "bad_request", "message": f"{where}: {first['msg']}"})


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return _json(error.status_code, {"code": code, "message": str(error.detail)})


async def _internal(_: Request, __: Exception) -> JSONResponse:
    return _json(500, {"code": "internal", "message": "an unexpected error; the service's log has the details"})


def speak_json(app: FastAPI) -> None:
    """Let every error of `app` leave as {code, message}."""
    handlers: dict[type[Exception], Callable[..., object]] = {
        Refused: _refused,
        RequestValidationError: _invalid,
        HTTPException: _http,
        Exception: _internal,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)  # type: ignore[arg-type]  # Starlette types handlers by union
