"""How the stack finds out that a server truly serves: asked again and again until the answer is right."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit


async def until(ready: Callable[[], Awaitable[bool]], *, every: float = 0.03) -> None:
    """Ask until the answer is yes; whoever waits sets the deadline."""
    while not await ready():  # noqa: ASYNC110 - another process becomes ready, and tells nobody
        await asyncio.sleep(every)


async def answers(url: str, *, patience: float = 5) -> bool:
    """Whether one GET brings a timely 200; by hand, because an HTTP library takes longer to load than some servers to start."""
    try:
        async with asyncio.timeout(patience):
            return await _status(url) == 200
    except (OSError, TimeoutError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _status(url: str) -> int:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        await writer.drain()
        return int((await reader.readuntil(b"\n")).split()[1])
    finally:
        writer.close()
