"""How a burst is measured, whoever it is that works: calls by the stub's clock, CPU and memory of every process, until all is quiet."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from bench import figures, processes
from bench.figures import CALLS, Burst
from bench.world import World

QUIET = 1.0
"""Seconds after the last run in which echoes are still read, watermarks and records written: counted into the costs."""
LOOK_EVERY = 2.0
"""Seconds between two looks at everybody's memory: a look costs some milliseconds."""

Act = Callable[[], Awaitable[None]]


async def burst(world: World, count: int, begin: Act, over: Act, *, without: tuple[str, ...] = ()) -> Burst:
    """`begin` asks for so many runs, `over` returns when they are over; `without`: parts of the stack that have nothing to do with it."""
    await world.stub.reset()
    before, busy, began = world.cpu(), processes.busy(), time.monotonic()
    async with watched_memory(world) as peak:
        await begin()
        await world.stub.wait(CALLS * count)
        await over()
        cores = (processes.busy() - busy) / (time.monotonic() - began)
        await asyncio.sleep(QUIET)
    cpu = processes.spent(before, world.cpu())
    others = (processes.busy() - busy - sum(cpu.values())) / (time.monotonic() - began)
    runs = figures.by_run(await world.stub.hits())
    figures.check(runs, count)
    first, last = min(each[0] for each in runs.values()), max(each[-1] for each in runs.values())
    return Burst(count, last - first, last - began, figures.gaps(runs), cpu, cores, others, peak, without)


@asynccontextmanager
async def watched_memory(world: World) -> AsyncIterator[processes.Costs]:
    """PSS by part at the moment when all together held most."""
    peak: processes.Costs = {}

    async def watch() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = processes.pss_of(world.parts)
            if sum(now.values()) > sum(peak.values()):
                peak.clear()
                peak.update(now)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
