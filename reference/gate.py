"""The outermost door of a neighbour: whole bodies of bounded size, JSON only, addressed by a known name."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reference.errors import Refused, answer

log = logging.getLogger(__name__)


class Gate:
    """ASGI: reads the body once into `scope["body"]`, refuses what is too big, foreign or not JSON, and logs what nobody caught."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], max_body: int) -> None:
        self._app, self._hosts, self._max = app, hosts, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            self._check(headers)
            scope["body"] = await self._read(headers, receive)
            if scope["body"] and headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
                raise Refused(415, "not_json", "send the body as application/json")
        except Refused as refused:
            await answer(send, refused)
            return
        scope["receive"] = receive  # the server's own, through which a fault reaches the connection
        await self._app(scope, _again(scope["body"], receive), send)

    def _check(self, headers: dict[bytes, bytes]) -> None:
        name = headers.get(b"host", b"").decode("latin-1").lower()
        host = name if name.endswith("]") else name.rpartition(":")[0] or name
        if host not in self._hosts:
            raise Refused(400, "foreign_host", "the Host header names another host; a proxy or a page of somebody else's sent this")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._max:
            raise self._too_big()
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "incomplete", "the request ended before its body did")
            body += message.get("body", b"")
            if len(body) > self._max:
                raise self._too_big()
            more = message.get("more_body", False)
        return bytes(body)

    def _too_big(self) -> Refused:
        return Refused(413, "too_big", f"a request body is at most {self._max} bytes")


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first, then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
