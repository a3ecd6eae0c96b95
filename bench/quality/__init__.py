"""`scripts/bench quality [--rows N] [--tenants N]`: a tick over everybody's data, beside the bare SQL and beside the plain way.

The ticks go through Kafka and a worker with default settings; what is timed ends when the last verdict is recorded and nothing is left to publish.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from bench import figures, processes
from bench.ours import environment, init
from bench.quality import warehouse
from bench.quality.report import write
from bench.quality.warehouse import Size
from bench.world import World
from expectations.warehouse import Warehouse
from streams.settings import QualitySettings

FEW = 100
"""Tenants of the small tick, for the memory."""
SAMPLED = 3
"""Tenants that are measured the plain way; the rest is multiplied."""
NEW = (10_000, 100_000)
"""Rows that come between two scheduled ticks."""
GIANT = Size(tenants=21, rows=21_000, giant=5_000_000)
"""One tenant with so many rows beside twenty small ones."""
EACH_SECOND = 8
"""Training runs asked for each second while hand-overs are measured."""
CALM = 20.0
"""Seconds of hand-overs without a tick."""
_OPEN = "select (select count(*) from runs where finished_at is null) + (select count(*) from outbox)"
_TENANTS = """
with made as (insert into tenants (tenant_id) select unnest($1::text[]) on conflict do nothing returning tenant_id)
insert into tenant_heads (tenant_id) select tenant_id from made
"""


class Ticks:
    """A worker that carries the quality pipeline, asked by plain records on `dq.tick`."""

    def __init__(self, world: World, producer: AIOKafkaProducer, ledger: "asyncpg.Connection[Any]") -> None:
        self.world, self._producer, self._ledger = world, producer, ledger
        self._trained = 0

    async def tick(self, tenants: Sequence[str], *, slot: datetime | None = None) -> dict[str, float]:
        """A tick, and then everything that follows from it."""
        took = await self.judged(tenants, slot=slot)
        await self.over()
        return took

    async def judged(self, tenants: Sequence[str], *, slot: datetime | None = None) -> dict[str, float]:
        """Every tenant measured and judged: seconds from the first record to the last verdict, and the worker's greatest memory meanwhile."""
        began, at = time.monotonic(), await self._ledger.fetchval("select clock_timestamp()")
        for tenant in tenants:
            value = {"tenant_id": tenant} | ({"slot": slot.isoformat()} if slot else {})
            await self._producer.send("dq.tick", key=tenant.encode(), value=json.dumps(value).encode())
        peak, looks = 0.0, 0
        async with asyncio.timeout(600):
            while await self._ledger.fetchval("select count(*) from quality_recorded where at >= $1", at) < len(tenants):
                looks += 1
                if looks % 5 == 0:
                    peak = max(peak, processes.pss(self.world.parts["worker-1"]))
                await asyncio.sleep(0.1)
            seconds = time.monotonic() - began
        return {"seconds": round(seconds, 2), "worker_and_pool_mib": round(peak, 1)}

    async def verdicts(self, tenants: Sequence[str]) -> dict[str, int]:
        rows = await self._ledger.fetch("select verdict, count(*) as n from quality_states where tenant_id = any ($1) group by verdict", tenants)
        return {row["verdict"]: row["n"] for row in rows}

    async def hand_overs(self, until: "asyncio.Future[Any] | None") -> dict[str, float]:
        """Times between the stages of training runs that are asked for all the while: for `CALM` seconds, or until the other thing is done."""
        await self.world.stub.reset()
        began, runs = time.monotonic(), 0
        while not (until.done() if until else time.monotonic() - began > CALM):
            tenant = f"bench-{self._trained:05}"
            self._trained, runs = self._trained + 1, runs + 1
            await self._producer.send("training.requested", key=tenant.encode(), value=json.dumps({"tenant_id": tenant}).encode())
            await asyncio.sleep(max(0.0, began + runs / EACH_SECOND - time.monotonic()))
        await self.world.stub.wait(figures.CALLS * runs, timeout=120)
        found = figures.by_run(await self.world.stub.hits())
        figures.check(found, runs)
        return figures.times(figures.gaps(found))

    async def over(self) -> None:
        async with asyncio.timeout(120):
            while await self._ledger.fetchval(_OPEN):  # noqa: ASYNC110  # it ends in other processes
                await asyncio.sleep(0.1)


@asynccontextmanager
async def ticks(world: World, tenants: Sequence[str]) -> AsyncIterator[Ticks]:
    """A worker of its own for the block, with default settings, who knows the tenants."""
    own = environment(world) | {"TIDEMILL_PIPELINES": "bench.quality.services:PIPELINES", "TIDEMILL_SERVICES": "bench.quality.services:open_services"}
    async with AsyncExitStack() as stack:
        ledger = await asyncpg.connect(world.addresses.postgres)
        stack.push_async_callback(ledger.close)
        await ledger.execute(_TENANTS, [*tenants, *(f"bench-{number:05}" for number in range(10_000))])
        producer = AIOKafkaProducer(bootstrap_servers=world.addresses.kafka, acks="all", enable_idempotence=False)
        await producer.start()
        stack.push_async_callback(producer.stop)
        await stack.enter_async_context(world.process("worker-1", [sys.executable, "-m", "streams.cli", "worker"], environment=own))
        yield Ticks(world, producer, ledger)


async def quality(world: World, words: Sequence[str]) -> None:
    """[--rows 10000000] [--tenants 1000]: ticks over everybody's data, beside the bare SQL and beside the plain way."""
    parser = argparse.ArgumentParser(prog="scripts/bench quality")
    parser.add_argument("--rows", type=int, default=10_000_000, help="interactions of all tenants together")
    parser.add_argument("--tenants", type=int, default=1000)
    given = parser.parse_args(words)
    size, began = Size(given.tenants, given.rows), time.monotonic()
    tenants = [f"shop-{number:05}" for number in range(size.tenants)]
    dsn, settings = world.addresses.warehouse, QualitySettings()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    await init(world)
    loaded = await warehouse.load(dsn, size)
    say(f"{size.rows:,} interactions of {size.tenants:,} tenants are loaded in {loaded:.0f} s")
    reader = Warehouse(dsn, role=settings.role, work_mem=settings.work_mem)
    bare = await warehouse.bare(reader, tenants, settings.interaction_types)
    say(f"bare SQL: {sum(bare.values()):.1f} s {bare}")
    async with ticks(world, tenants) as ours:
        warm = await ours.tick(tenants[:1])
        say(f"first verdict, with the import of Great Expectations: {warm['seconds']} s")
        few = await ours.tick(tenants[: min(FEW, size.tenants)])
        say(f"tick of {FEW} tenants: {few}")
        full = await ours.tick(tenants)
        verdicts = await ours.verdicts(tenants)
        say(f"full tick: {full}; verdicts {verdicts}")
        calm = await ours.hand_overs(None)
        say(f"hand-overs without a tick: {calm}")
        ticking = asyncio.ensure_future(ours.judged(tenants))
        busy = await ours.hand_overs(ticking)  # to the last verdict, and no longer
        beside = await ticking
        await ours.over()
        say(f"hand-overs during a tick: {busy}; the tick: {beside}")
        await warehouse.analyse(dsn)
        scheduled = [{"new_rows": 0, **await ours.tick(tenants, slot=datetime.now(UTC))}]
        for rows in NEW:
            await warehouse.add(dsn, size, rows)
            bare_new = await warehouse.bare(reader, tenants, settings.interaction_types, datetime.now(UTC) - timedelta(minutes=15))
            tick = await ours.tick(tenants, slot=datetime.now(UTC))
            scheduled.append({"new_rows": rows, "bare_sql_s": round(sum(bare_new.values()), 2), **tick})
        say(f"scheduled ticks: {scheduled}")
        plain = await _plain(world, dsn, tenants)
        say(f"the plain way: {plain['median']} s a tenant")
        await warehouse.load(dsn, GIANT)
        beside_a_giant = tenants[: GIANT.tenants]
        giant = {"rows": GIANT.giant, "beside": GIANT.tenants - 1, **await ours.tick(beside_a_giant), "verdicts": await ours.verdicts(beside_a_giant)}
        say(f"one tenant with {GIANT.giant:,} rows beside {GIANT.tenants - 1} small ones: {giant}")
    found = {
        "tenants": size.tenants, "rows": size.rows, "loading_s": round(loaded), "bare_sql_s": bare, "first_verdict": warm,
        "few": {"tenants": FEW, **few},
        "full": full, "verdicts": verdicts, "full_beside_training": beside, "hand_over_ms": {"calm": calm, "during_a_tick": busy},
        "scheduled": scheduled, "plain_s_a_tenant": plain, "giant": giant,
    }  # fmt: skip
    print(write(found, seconds=time.monotonic() - began, kept=size == Size(1000, 10_000_000)), flush=True)


async def _plain(world: World, dsn: str, tenants: Sequence[str]) -> dict[str, float]:
    """Seconds of one tenant the plain way, of a few."""
    step = max(1, len(tenants) // (SAMPLED + 1))
    argv = [sys.executable, "-m", "bench.quality.plain", dsn, *tenants[::step][: SAMPLED + 1]]
    async with world.process("plain", argv, talk=True) as child:
        out, _ = await asyncio.wait_for(child.communicate(), 240)
    if child.returncode:
        raise RuntimeError(f"the plain way failed; see {world.logs / 'plain.log'}")
    answer = json.loads(out)
    return figures.median(answer["seconds"]) | {"expectations": answer["expectations"]}
