"""The other side of the wire in tests: a server that answers by script, well or ill, and counts its connections."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.unit.test_http_client import free_port

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that answers the n-th request with the n-th script, the last one for ever, and counts its connections."""

    def __init__(self, *scripts: Script | bytes) -> None:
        self.scripts = scripts
        self.requests: list[bytes] = []
        self.connections = self.open = self.most = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Peer"]:
        port = free_port()
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections, self.open = self.connections + 1, self.open + 1
        self.most = max(self.most, self.open)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
                    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                    self.requests.append(head + await reader.readexactly(int(length or 0)))
                    if isinstance(script, bytes):
                        writer.write(script)
                    else:
                        await script(writer)
                    await writer.drain()
        finally:
            self.open -= 1
            writer.transport.abort()
            self._tasks.discard(task)

    async def until_open(self, count: int) -> None:
        """Wait until no more than so many connections are open."""
        while self.open > count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
    writer.transport.abort()


async def hangs(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1)  # then it sees who has gone


def sends(*parts: bytes, then: Script | None = None) -> Script:
    """The parts one by one, so that they come in several reads."""

    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if then:
            await then(writer)

    return script


def for_ever(first: bytes, again: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()

    return script


def drips(first: bytes, again: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.02)

    return script
