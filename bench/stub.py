"""The neighbour that everybody's stages call: it answers at once and notes who called when, on the one clock that all figures come from.

A stage calls `/stage/{stage}/{run}`, by any method. `/_wait/{n}` answers once n calls were noted, `/_hits` lists them, `/_reset` forgets them.
Hand-rolled, because a web framework would cost more than what is measured: here a call takes some tens of microseconds.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from time import monotonic
from typing import cast

import uvloop

_STAGE = b"/stage/"
_BODY = b'{"job_id":"job-1","status":"completed"}'


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_AT_ONCE = _answer(_BODY)


class Notes:
    """Who called when, and who waits for how many calls."""

    def __init__(self) -> None:
        self.hits: list[tuple[bytes, float]] = []
        self.waiting: list[tuple[int, Callable[[bytes], None]]] = []
        self.next = sys.maxsize
        """The number of calls that the next of those who wait waits for."""

    def note(self, path: bytes, at: float) -> None:
        self.hits.append((path, at))
        if len(self.hits) >= self.next:
            self.tell()

    def wait(self, count: int, write: Callable[[bytes], None]) -> None:
        self.waiting.append((count, write))
        self.tell()

    def tell(self) -> None:
        for count, write in self.waiting:
            if count <= len(self.hits):
                write(_AT_ONCE)
        self.waiting = [entry for entry in self.waiting if entry[0] > len(self.hits)]
        self.next = min((count for count, _ in self.waiting), default=sys.maxsize)

    def listing(self) -> bytes:
        return json.dumps([[*path[len(_STAGE) :].decode().split("/"), at] for path, at in self.hits]).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, notes: Notes) -> None:
        self.notes, self.rest = notes, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        at = monotonic()
        data = self.rest + data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            end = head + 4 + _length(data[:head])
            if len(data) < end:
                break
            self.handle(data.split(b" ", 2)[1], at)
            data = data[end:]
        self.rest = data

    def handle(self, path: bytes, at: float) -> None:
        if path.startswith(_STAGE):
            self.write(_AT_ONCE)
            self.notes.note(path, at)
        elif path.startswith(b"/_wait/"):
            self.notes.wait(int(path[len(b"/_wait/") :]), self.write)
        elif path == b"/_hits":
            self.write(_answer(self.notes.listing()))
        elif path == b"/_reset":
            self.notes.hits.clear()
            self.write(_AT_ONCE)
        else:
            self.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def _length(head: bytes) -> int:
    """What Content-Length says, 0 without one; names of headers come in any case."""
    at = head.lower().find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])


async def serve(port: int) -> None:
    notes = Notes()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(notes), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
