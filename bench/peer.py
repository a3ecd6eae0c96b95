"""DBOS as a contestant: its environment, its database on the same PostgreSQL, its processes, and the ways in which it is used."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count as counting
from pathlib import Path

import asyncpg

from bench import figures, measure
from bench.environment import environment
from bench.figures import Burst, Singles
from bench.talk import Talker
from bench.world import World

DATABASE = "dbos_bench"
HERE = Path(__file__).parent / "dbos"
QUICK_POLL, DEFAULT_POLL = 0.05, 1.0
"""Seconds between two looks of a process at the queue: as quick as pays, and as DBOS comes."""
_round = counting()


class Dbos:
    """One or more processes; the first is the one that is asked."""

    def __init__(self, world: World, talkers: Sequence[Talker]) -> None:
        self._world, self._talkers = world, talkers

    async def single(self, count: int) -> Singles:
        """Called in process, one run after another."""
        await self._world.stub.reset()
        await self._talkers[0].ask(do="here", threads=1, runs=names(count))
        runs = figures.by_run(await self._world.stub.hits())
        figures.check(runs, count)
        return Singles(figures.gaps(runs))

    async def single_queued(self, count: int) -> Singles:
        """Through the queue, one run at a time; they do not keep step with its polling."""
        await self._world.stub.reset()
        asked: dict[str, float] = {}
        for run in names(count):
            asked[run] = (await self._talkers[0].ask(do="queue", runs=[run]))[0]
            await asyncio.sleep(0.37)
        runs = figures.by_run(await self._world.stub.hits())
        figures.check(runs, count)
        return Singles(figures.gaps(runs), [runs[run][0] - at for run, at in asked.items()])

    async def burst_here(self, count: int, threads: int) -> Burst:
        return await self._burst(count, do="here", threads=threads)

    async def burst_queued(self, count: int) -> Burst:
        return await self._burst(count, do="queue")

    async def _burst(self, count: int, **command: object) -> Burst:
        async def begin() -> None:
            await self._talkers[0].ask(**command, runs=names(count))

        async def over() -> None:
            """It answers when they are."""

        return await measure.burst(self._world, count, begin, over, without=("kafka",))


def names(count: int) -> list[str]:
    """Never the same twice: DBOS answers a known id from its records."""
    batch = next(_round)
    return [f"dbos-{os.getpid()}-{batch}-{number}" for number in range(count)]


@asynccontextmanager
async def dbos(world: World, python: Path, *, processes: int = 1, poll: float = DEFAULT_POLL, warm_up: int = 50) -> AsyncIterator[Dbos]:
    """Processes that have worked a little."""
    dsn = world.addresses.postgres.rsplit("/", 1)[0] + "/" + DATABASE
    async with AsyncExitStack() as stack:
        talkers = []
        for number in range(processes):
            settings = {"BENCH_STUB": world.stub.url, "BENCH_DBOS": dsn, "BENCH_WORKER": f"dbos-{number + 1}", "BENCH_POLL": str(poll)}
            child = await stack.enter_async_context(
                world.process(f"dbos-{number + 1}", [str(python), str(HERE / "app.py")], environment=settings, talk=True)
            )
            talkers.append(Talker(world, f"dbos-{number + 1}", child))
            await talkers[-1].answer()
        them = Dbos(world, talkers)
        await (them.burst_queued(warm_up) if processes > 1 else them.burst_here(warm_up, 4))
        yield them


async def prepare(world: World, home: Path) -> Path:
    """The environment (made once a home folder) and an empty database; gives its Python."""
    commands = await environment(home / "venv-dbos", HERE / "requirements.txt")
    connection = await asyncpg.connect(world.addresses.postgres)
    try:
        await connection.execute(f"drop database if exists {DATABASE} with (force)")
        await connection.execute(f"create database {DATABASE}")
    finally:
        await connection.close()
    return commands / "python"
