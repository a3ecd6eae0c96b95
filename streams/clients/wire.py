"""HTTP/1.1 under httpx's API: the transport that the neighbours' client asks directly, over asyncio and llhttp (docs/decisions/0009).

It carries whole, small answers: no streaming, no HEAD, no redirects, no proxies, no compression. The deadline is the caller's: cancelling closes
the connection.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

import httpx

from streams.clients.connection import Answer, Connection, Silence

MOST_OPEN = 100
"""Connections to one origin, in use and at rest."""
IDLE_SECONDS = 30.0
"""How long one rests before it is closed."""


class Wire(httpx.AsyncBaseTransport):
    """Writes a request, has its origin answer it, and makes httpx's response of the answer.

    The extension `resend` of a request is called before the request is sent a second time, because the connection that it was sent over had been
    closed while it rested. Without it nothing is sent twice. `target` is httpx's own: what is asked for when that is not the URL's path.
    """

    def __init__(self, *, largest: int, connect_timeout: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        self._largest, self._connect_timeout, self._tls = largest, connect_timeout, tls
        self._origins: dict[tuple[bytes, bytes, int | None], Origin] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        where = request.url.raw_scheme, request.url.raw_host, request.url.port
        origin = self._origins.get(where) or self._origin(*where)
        answer = await origin.ask(_written(request, await request.aread()), self._largest, request.extensions.get("resend"))
        return httpx.Response(answer.status, headers=answer.headers, stream=httpx.ByteStream(b"".join(answer.body)))

    async def aclose(self) -> None:
        for origin in self._origins.values():
            origin.close()
        await asyncio.sleep(0)  # in which the loop closes the sockets

    def _origin(self, scheme: bytes, host: bytes, port: int | None) -> "Origin":
        if scheme not in (b"http", b"https") or (scheme == b"https" and self._tls is None):
            raise httpx.UnsupportedProtocol(f"this transport was not made for {scheme.decode()!r}")
        tls = self._tls if scheme == b"https" else None
        origin = Origin(host.decode("ascii"), port or (443 if tls else 80), tls, self._connect_timeout)
        return self._origins.setdefault((scheme, host, port), origin)


def _written(request: httpx.Request, body: bytes) -> bytes:
    target = request.extensions.get("target") or request.url.raw_path
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise httpx.LocalProtocolError("a line break within a header")
    return b"%b\r\n\r\n%b" % (head, body)


class Origin:
    """The connections to one host and port: those at rest are used again, the newest first, and closed when they rested too long."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, connect_timeout: float) -> None:
        self._host, self._port, self._tls, self._connect_timeout = host, port, tls, connect_timeout
        self._room = asyncio.Semaphore(MOST_OPEN)
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    async def ask(self, question: bytes, largest: int, resend: Callable[[], object] | None) -> Answer:
        """Ask over a connection at rest or a new one. One that was closed while it rested is replaced once, if `resend` allows."""
        async with self._room:
            connection = self._rested() or await self._connect()
            try:
                answer = await connection.ask(question, largest)
            except Silence:
                if not connection.rests_until or resend is None:
                    raise
                resend()
                connection = await self._connect()
                answer = await connection.ask(question, largest)
            if connection.open:
                self._rest(connection)
            return answer

    def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        for connection in tuple(self._open):
            connection.drop()

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self) -> Connection:
        name = self._host if self._tls else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._forget), self._host, self._port, ssl=self._tls, server_hostname=name
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection in {self._connect_timeout} s") from error
        except (OSError, UnicodeError) as error:  # among them a name that does not resolve or cannot, and a TLS handshake that failed
            raise httpx.ConnectError(str(error)) from error
        if connection.open:  # else it is lost already, which asking will show
            self._open.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _rest(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.rests_until = loop.time() + IDLE_SECONDS
        self._idle.append(connection)
        self._sweeper = self._sweeper or loop.call_at(connection.rests_until, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].rests_until <= loop.time():
            self._idle.popleft().drop()
        self._sweeper = loop.call_at(self._idle[0].rests_until, self._sweep) if self._idle else None
