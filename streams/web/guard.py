"""The door of the web application: whose Host header is answered, what may change things, how much is read, and the headers every answer carries."""

from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 1 << 20
_TOO_LARGE = "a body may have {} bytes at most"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ALWAYS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Refuses what no route should see: other hosts (DNS rebinding), forms posted from other sites, endless bodies."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], largest: int = LARGEST_BODY) -> None:
        self._app, self._hosts, self._largest = app, frozenset(hosts), largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _with_headers(send)
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        await self._app(scope, _bounded(receive, self._largest), answer)

    def _refusal(self, method: str, headers: Headers) -> JSONResponse | None:
        host = _name(headers.get("host", ""))
        if host not in self._hosts:
            return problem(421, "wrong_host", f"this server does not answer for {host[:100]!r}; use the address it listens on")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._largest:
            return problem(413, "body_too_large", _TOO_LARGE.format(self._largest))
        if method not in READING and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return problem(415, "json_only", "send calls that change something with Content-Type: application/json")
        return None


def problem(status: int, code: str, message: str, **more: Any) -> JSONResponse:
    """The one shape of every error."""
    return JSONResponse({"code": code, "message": message, **more}, status_code=status)


def _name(host: str) -> str:
    """The host without its port; IPv6 addresses keep their brackets off."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _bounded(receive: Receive, largest: int) -> Receive:
    read = 0

    async def bounded() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > largest:
            raise HTTPException(413, _TOO_LARGE.format(largest))  # the one kind FastAPI lets through while it reads a body
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ALWAYS.items():
                headers.setdefault(name, value)
        await send(message)

    return answer
