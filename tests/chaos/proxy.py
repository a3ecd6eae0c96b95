"""A TCP proxy between a worker and a server that passes, holds, delays or cuts what goes through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

CHUNK = 65_536


class Over(Exception):
    """A proxy has said all that it will on this connection."""


class Proxy:
    """Listens on a port of its own and forwards to one server, as long as it is told to."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.refusing = False
        """Whether new connections are closed at once."""
        self.delay = 0.0
        """Seconds that every chunk waits, in both directions."""
        self.cuts = 0
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Keep connections open and let nothing through: the network as it is in a partition."""
        self._flowing.clear()

    def heal(self) -> None:
        """Everything through again, at once."""
        self.refusing, self.delay = False, 0.0
        self._flowing.set()

    def cut(self) -> int:
        """Reset every connection there is; how many."""
        cut = list(self._writers)
        for writer in cut:
            with suppress(AttributeError, OSError):
                writer.transport.abort()
        self.cuts += 1
        return len(cut) // 2

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        await self._flowing.wait()
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        try:
            with suppress(Over):
                await asyncio.gather(self.forth(reader, back, writer), self.back(there, writer))
        finally:
            self._writers -= {writer, back}
            for one in (writer, back):
                one.transport.abort() if self.refusing else one.close()

    async def forth(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        """Pass on what the client says."""
        while chunk := await source.read(CHUNK):
            await self.pass_on(chunk, target)
        _end(target)

    async def back(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass on what the server answers."""
        while chunk := await source.read(CHUNK):
            await self.pass_on(chunk, target)
        _end(target)

    async def pass_on(self, chunk: bytes, target: asyncio.StreamWriter) -> None:
        """As late as the network is slow."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._flowing.wait()
        target.write(chunk)
        await target.drain()


def _end(target: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        if target.can_write_eof():
            target.write_eof()


@asynccontextmanager
async def proxied(host: str, port: int, at: int) -> AsyncIterator[Proxy]:
    """A running proxy before `host:port`, listening at `at`."""
    proxy = Proxy(host, port)
    await proxy.start(at)
    try:
        yield proxy
    finally:
        await proxy.stop()


def address(url: str) -> tuple[str, int]:
    """Host and port of `scheme://user:password@host:port/path`."""
    from urllib.parse import urlsplit

    parts: Any = urlsplit(url)
    return str(parts.hostname), int(parts.port)
