"""Whether a server answers a GET with 200: the readiness probe of everything that speaks HTTP, without loading an HTTP library."""

import asyncio
from urllib.parse import urlsplit


async def answers(url: str, *, patience: float = 5) -> bool:
    """One GET; anything but a timely 200 is a no."""
    try:
        async with asyncio.timeout(patience):
            return await _status(url) == 200
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return False


async def until_answers(url: str, *, every: float = 0.05) -> None:
    while not await answers(url):
        await asyncio.sleep(every)


async def _status(url: str) -> int:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readuntil(b"\n")
        return int(line.split()[1])
    finally:
        writer.close()
