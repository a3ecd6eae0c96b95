"""`scripts/bench wait`: what ten thousand runs cost that wait for their engine, asked after and not, and ten thousand tenants that do nothing."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import asyncpg

from bench import processes
from bench.ours import add_tenants, ask_all, asking, environment, init
from bench.processes import Costs
from bench.report import publish
from bench.waiting.report import judged, table
from bench.world import World
from streams.ledger.connection import connect

FEW = 10
SETTLE = 4.0
CALLED_BACK = "PT6H"
"""How often a job is asked after where the engine calls back: as good as never."""
COMPLETED = "training.completed"
_ALIVE = "select count(*) from workers where lease_until > clock_timestamp() and stopped_at is null"
_WAITING = "select (select count(*) from steps where state = 'waiting') - (select count(*) from outbox)"
_OPEN = "select (select count(*) from runs where state in ('pending', 'running', 'cancelling')) + (select count(*) from outbox)"
_ASK_WITHIN = """
with waits as (select run_id, stage, row_number() over (order by run_id) * $1::float8 / count(*) over () as later from steps where state = 'waiting')
update steps s set due_at = now() + make_interval(secs => w.later) from waits w where s.run_id = w.run_id and s.stage = w.stage
"""
"""A worker that was told another interval takes it up from each job's next look on; they are spread as they come to be by themselves."""


class Waiting:
    """One worker with nothing to do but wait."""

    def __init__(self, world: World, ledger: "asyncpg.Connection[Any]", tenants: Sequence[str]) -> None:
        self.world, self.ledger, self.tenants = world, ledger, tenants

    async def shares(self, seconds: float) -> dict[str, Any]:
        """Shares of one core and the memory, over some time."""
        before, began, memory = self.world.cpu(), time.monotonic(), []
        while time.monotonic() - began < seconds:
            memory.append(processes.pss(self.world.parts["worker"]))
            await asyncio.sleep(seconds / 12)
        spent = processes.spent(before, self.world.cpu())
        percent: Costs = {part: round(100 * spent[part] / (time.monotonic() - began), 2) for part in ("worker", "postgres", "kafka")}
        third = len(memory) // 3
        grown = median(memory[-third:]) - median(memory[:third])
        return percent | {
            "together": round(percent["worker"] + percent["postgres"], 2),
            "mib": round(median(memory), 1),
            "mib_grown": round(grown, 2),
        }

    async def begin(self) -> dict[str, float]:
        """Every tenant asks; until each of their runs waits for its job."""
        began = time.monotonic()
        async with asking(self.world) as producer:
            await ask_all(producer, self.tenants)
        await self.until(_WAITING, len(self.tenants))
        return {"runs": len(self.tenants), "a_second": round(len(self.tenants) / (time.monotonic() - began), 1)}

    async def asked_after(self, seconds: float, *, every: float) -> dict[str, Any]:
        """Looks a second, and what they cost, while nobody calls back."""
        await self.ledger.execute(_ASK_WITHIN, every)
        await asyncio.sleep(SETTLE)
        await self.world.stub.reset()
        began = time.monotonic()
        found = await self.shares(seconds)
        looks = sum(hit.stage == "ask" for hit in await self.world.stub.hits())
        return found | {"polls_a_second": round(looks / (time.monotonic() - began), 1)}

    async def call_back(self) -> dict[str, float]:
        """The engine tells of every job that it is done, all at once."""
        began = time.monotonic()
        async with asking(self.world) as producer:
            for tenant in self.tenants:
                value = {"tenant_id": tenant, "job_id": f"job-{tenant}", "status": "completed", "model_path": f"models/{tenant}/1/"}
                await producer.send(COMPLETED, key=tenant.encode(), value=json.dumps(value).encode())
            await producer.flush()
        await self.until(_OPEN, 0)
        return {"a_second": round(len(self.tenants) / (time.monotonic() - began), 1)}

    async def until(self, count: str, wanted: int) -> None:
        async with asyncio.timeout(180):
            while await self.ledger.fetchval(count) != wanted:  # noqa: ASYNC110  # it happens in another process
                await asyncio.sleep(0.2)


@asynccontextmanager
async def working(world: World, ledger: "asyncpg.Connection[Any]", **more: str) -> AsyncIterator[None]:
    """A worker that carries the pipeline of one stage, and has come to rest."""
    settings = environment(world) | {"TIDEMILL_PIPELINES": "bench.waiting.pipeline:PIPELINES"} | more
    async with world.process("worker", [sys.executable, "-m", "streams.cli", "worker"], environment=settings):
        async with asyncio.timeout(60):
            while not await ledger.fetchval(_ALIVE):  # noqa: ASYNC110  # it happens in another process
                await asyncio.sleep(0.2)
        await asyncio.sleep(2 * SETTLE)
        yield


async def wait(world: World, words: Sequence[str]) -> None:
    """[--runs 10000] [--seconds 60]: idle tenants, then a run of each that waits for its engine, which calls back, or does not."""
    parser = argparse.ArgumentParser(prog="scripts/bench wait")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement; a worker does some things once a minute")
    given = parser.parse_args(words)
    began = time.monotonic()
    found: dict[str, Any] = {"few": FEW}

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    await init(world)
    ledger = await connect(world.addresses.postgres, timeout=120, name="bench")
    try:
        us = Waiting(world, ledger, [f"waits-{number:05}" for number in range(given.runs)])
        async with working(world, ledger, TIDEMILL_ML_ENGINE__POLL_EVERY=CALLED_BACK):
            await add_tenants(ledger, us.tenants[:FEW])
            say(f"{FEW} idle tenants")
            found["idle_few"] = await us.shares(given.seconds)
            await add_tenants(ledger, us.tenants)
            await ledger.execute("analyze")
            say(f"{found['idle_few']}; {given.runs:,} idle tenants")
            await asyncio.sleep(SETTLE)
            found["idle_many"] = await us.shares(given.seconds)
            say(f"{found['idle_many']}; each asks for a run")
            found["begun"] = await us.begin()
            await asyncio.sleep(SETTLE)
            say(f"{found['begun']}; all wait, nobody asks")
            found["called_back"] = await us.shares(given.seconds)
            say(f"{found['called_back']}")
        async with working(world, ledger):
            every = 60.0
            say(f"all wait and are asked after every {every:g} s")
            found["asked_after"] = await us.asked_after(given.seconds, every=every)
            say(f"{found['asked_after']}; the engine calls back, for all at once")
            found["completed"] = await us.call_back()
            say(f"{found['completed']}")
    finally:
        await ledger.close()
    print(publish("wait", judged(found), table, seconds=time.monotonic() - began, kept=not words), flush=True)
