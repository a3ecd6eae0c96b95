"""A worker dies while ten thousand runs are open: how long nobody calls, and how long what it had in hand is left alone."""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg

from bench.ours import add_tenants, ask_all, asking, environment
from bench.world import World
from streams.ledger.connection import connect

UNDER_WAY = 500
"""Calls before the first kill."""
WITHIN = 60.0
PATIENCE, WATCHED = 15.0, 20.0
"""Seconds after a kill within which work must go on, and for which it is watched."""
_ARGV = [sys.executable, "-m", "streams.cli", "worker"]
_ALIVE = "select worker_id, pid from workers where lease_until > clock_timestamp() and worker_id <> all ($1) order by slot"
_OPEN = "select count(*) from runs where state in ('pending', 'running', 'cancelling')"
_LEASED = "select count(*) from steps where worker = any($1)"
_HELD = "select tenant_id from steps where worker = $1"
_PAUSE = "select set_pause('training', null, 'until all have asked', 'bench', now())"
_RESUME = "select end_pause('training', null, 'all have asked', 'bench', now()), pg_notify('tidemill_wake', '')"


class Scene:
    """Workers, and a ledger that says who they are."""

    def __init__(self, world: World, ledger: "asyncpg.Connection[Any]") -> None:
        self.world, self.ledger = world, ledger
        self._killed: list[UUID] = []

    async def until_there_are(self, workers: int) -> None:
        async with asyncio.timeout(WITHIN):
            while len(await self.ledger.fetch(_ALIVE, self._killed)) < workers:  # noqa: ASYNC110  # it happens in other processes
                await asyncio.sleep(0.2)

    async def gather(self, count: int) -> None:
        """Open runs: the pipeline is paused until all have asked."""
        tenants = [f"open-{number:05}" for number in range(count)]
        await add_tenants(self.ledger, tenants)
        await self.ledger.execute(_PAUSE)
        async with asking(self.world) as producer:
            await ask_all(producer, tenants)
        async with asyncio.timeout(180):
            while await self.ledger.fetchval(_OPEN) < count:  # noqa: ASYNC110  # it happens in other processes
                await asyncio.sleep(0.2)
        await self.world.stub.reset()
        await self.ledger.execute(_RESUME)
        await self.world.stub.wait(UNDER_WAY, timeout=WITHIN)

    async def kill(self, *, all_of_them: bool) -> tuple[float, list[str]]:
        """SIGKILL to the first worker, or to each: when, and whose steps were left behind."""
        alive = await self.ledger.fetch(_ALIVE, self._killed)
        victims = alive if all_of_them else alive[:1]
        for each in victims:
            os.kill(each["pid"], signal.SIGKILL)
            self._killed.append(each["worker_id"])
        at = time.monotonic()
        held = [row["tenant_id"] for each in victims for row in await self.ledger.fetch(_HELD, each["worker_id"])]
        return at, held

    async def watched(self, killed: float, held: list[str]) -> dict[str, Any]:
        """What happens after a kill: the longest time without a call, when the dead worker's leases were gone, and when its steps called again."""
        given_back = None
        while (now := time.monotonic()) < killed + WATCHED:
            if given_back is None and not await self.ledger.fetchval(_LEASED, self._killed):
                given_back = now - killed
            await asyncio.sleep(0.2)
        hits = sorted(hit for hit in ((hit.at - killed, hit.run) for hit in await self.world.stub.hits()) if hit[0] > 0)
        again: dict[str, float] = {}
        for at, tenant in hits:
            again.setdefault(tenant, at)
        times = [0.0, *(at for at, _ in hits), WATCHED]
        return {
            "longest_silence_s": round(max(after - before for before, after in pairwise(times)), 2),
            "calls": len(hits),
            "given_back_s": given_back and round(given_back, 2),
            "left_behind": len(held),
            "again_in_time": sum(again.get(tenant, WATCHED) <= PATIENCE for tenant in held),
        }


async def crash(world: World, count: int) -> dict[str, Any]:
    """One of two workers dies; then the one that is left, and another is started at once."""
    async with AsyncExitStack() as stack:
        ledger = await connect(world.addresses.postgres, timeout=120, name="bench")
        stack.push_async_callback(ledger.close)
        for number in (1, 2):
            await stack.enter_async_context(world.process(f"crash-{number}", _ARGV, environment=environment(world)))
        scene = Scene(world, ledger)
        await scene.until_there_are(2)
        await scene.gather(count)
        found: dict[str, Any] = {"open_runs": count}
        killed, held = await scene.kill(all_of_them=False)
        found["one_of_two"] = await scene.watched(killed, held)
        found["open_runs_at_second_kill"] = await ledger.fetchval(_OPEN)
        killed, held = await scene.kill(all_of_them=True)
        await stack.enter_async_context(world.process("crash-3", _ARGV, environment=environment(world)))
        found["last_one_and_a_new_one"] = await scene.watched(killed, held)
        return found
