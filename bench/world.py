"""Where everybody is measured: one local stack, one stub, one set of accounts; contestants are started in it and leave nothing behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bench import processes
from streams.local import spawn
from streams.local.addresses import Addresses
from streams.local.ports import is_free
from streams.local.stack import Stack, running

ROOT = Path(__file__).resolve().parent.parent
PORTS = range(19_000, 19_900)


class Hit(NamedTuple):
    """One call as the stub saw it."""

    stage: str
    run: str
    at: float


class Stub:
    """The running stub, seen from the benchmark."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self._http = url, http

    async def reset(self) -> None:
        await self._ask("/_reset")

    async def wait(self, calls: int, *, timeout: float = 180) -> None:
        """Return as soon as so many calls were made since the reset."""
        async with asyncio.timeout(timeout):
            await self._ask(f"/_wait/{calls}")

    async def hits(self) -> list[Hit]:
        return [Hit(*each) for each in await self._ask("/_hits")]

    async def _ask(self, path: str) -> Any:
        async with self._http.get(self.url + path) as answer:
            return await answer.json()


@dataclass
class World:
    """The servers, who runs on them (`parts`: name -> process id), and where they log."""

    home: Path
    addresses: Addresses
    stub: Stub
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def cpu(self) -> processes.Costs:
        return processes.cpu_of(self.parts)

    @asynccontextmanager
    async def process(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, talk: bool = False
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that is asked to end with the block, and ends with the benchmark whatever happens; `talk`: over pipes."""
        pipe = asyncio.subprocess.PIPE if talk else asyncio.subprocess.DEVNULL
        with (self.logs / f"{name}.log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *spawn.Life().command(argv),
                stdin=pipe,
                stdout=pipe if talk else log,
                stderr=log,
                env=os.environ | dict(environment or {}),
                cwd=ROOT,
                start_new_session=True,
                limit=1 << 26,
            )
        self.parts[name] = child.pid
        try:
            yield child
        finally:
            await asyncio.shield(spawn.end(child, signal.SIGTERM, patience=15))
            self.parts.pop(name, None)


@asynccontextmanager
async def open_world(home: Path) -> AsyncIterator[World]:
    """Data servers and stub, started for this benchmark alone."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(running(Stack(home)))
        port = next(filter(is_free, PORTS))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)))
        world = World(home, servers.addresses, Stub(f"http://127.0.0.1:{port}", http))
        world.parts |= {each.what: each.process.pid for each in servers.processes if each.process}
        await stack.enter_async_context(world.process("stub", [sys.executable, "-m", "bench.stub", str(port)]))
        await _until_it_answers(world.stub)
        yield world


async def _until_it_answers(stub: Stub) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await stub.reset()
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
