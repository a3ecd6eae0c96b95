"""A proxy before an object store that also speaks for it: `503 SlowDown` instead of an answer, or half of one."""

import asyncio
import re

from tests.chaos.proxy import CHUNK, Over, Proxy

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /")
_BODY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Store(Proxy):
    """Misbehaves for as many requests as it is told to."""

    slow_downs = 0
    """Requests that are still to be answered `503 SlowDown`."""
    cut_short = 0
    """Answers with a body of which only half is still to come through."""
    done = 0
    """Requests that were answered so."""

    def heal(self) -> None:
        super().heal()
        self.slow_downs = self.cut_short = 0

    async def forth(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK):
            if self.slow_downs and _REQUEST.match(chunk):
                self.slow_downs, self.done = self.slow_downs - 1, self.done + 1
                client.write(SLOW_DOWN)
                await client.drain()
                raise Over
            await self.pass_on(chunk, target)
        raise Over

    async def back(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        answering = False
        while chunk := await source.read(CHUNK):
            starts = chunk.startswith(b"HTTP/1.1 ")
            body = chunk.partition(b"\r\n\r\n")[2] if starts else chunk if answering else b""
            if self.cut_short and len(body) > 1:
                self.cut_short, self.done = self.cut_short - 1, self.done + 1
                await self.pass_on(chunk[: len(chunk) - len(body) // 2], target)
                raise Over
            answering = True
            await self.pass_on(chunk, target)
        raise Over
