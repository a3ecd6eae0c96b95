"""Tidemill as a contestant: workers with the bench's pipeline, asked for runs by a plain producer on `training.requested`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from bench import figures, measure
from bench.figures import CALLS, Burst, Singles
from bench.world import World

TOPIC = "training.requested"
_TENANTS = """
with made as (insert into tenants (tenant_id) select unnest($1::text[]) on conflict do nothing returning tenant_id)
insert into tenant_heads (tenant_id) select tenant_id from made
"""
_OPEN = "select (select count(*) from runs where state in ('pending', 'running', 'cancelling')) + (select count(*) from outbox)"


class Ours:
    """One or more workers on the world's stack."""

    def __init__(self, world: World, producer: AIOKafkaProducer, ledger: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.world, self._producer, self._ledger = world, producer, ledger

    async def single(self, count: int) -> Singles:
        """Runs one at a time, each asked for when the one before is over."""
        await self._ready(count)
        asked: dict[str, float] = {}
        for number in range(count):
            tenant = name(number)
            asked[tenant] = time.monotonic()
            await self._ask(tenant)
            await self.world.stub.wait(CALLS * (number + 1), timeout=30)
            await asyncio.sleep(0.02)  # its end is recorded, and the next is not in step with anything
        runs = figures.by_run(await self.world.stub.hits())
        figures.check(runs, count)
        return Singles(figures.gaps(runs), [runs[tenant][0] - at for tenant, at in asked.items()])

    async def burst(self, count: int) -> Burst:
        """So many tenants ask at once."""
        await self._ready(count)

        async def begin() -> None:
            for delivery in [await self._ask(name(number)) for number in range(count)]:
                await delivery

        return await measure.burst(self.world, count, begin, self._over)

    async def _ask(self, tenant: str) -> "asyncio.Future[object]":
        sent: asyncio.Future[object] = await self._producer.send(TOPIC, key=tenant.encode(), value=b'{"tenant_id":"%b"}' % tenant.encode())
        return sent

    async def _ready(self, tenants: int) -> None:
        """Known tenants, no run of an earlier round, a stub that has forgotten it."""
        await add_tenants(self._ledger, [name(number) for number in range(tenants)])
        await self._over()
        await self.world.stub.reset()

    async def _over(self) -> None:
        async with asyncio.timeout(60):
            while await self._ledger.fetchval(_OPEN):  # noqa: ASYNC110  # it ends in other processes
                await asyncio.sleep(0.1)


def name(number: int) -> str:
    """A tenant for each run of a round: one tenant's runs would wait for each other."""
    return f"bench-{number:05}"


@asynccontextmanager
async def ours(world: World, *, workers: int = 1, warm_up: int = 100) -> AsyncIterator[Ours]:
    """Workers that have their partitions and have worked a little."""
    async with AsyncExitStack() as stack:
        for number in range(workers):
            await stack.enter_async_context(
                world.process(f"worker-{number + 1}", [sys.executable, "-m", "streams.cli", "worker"], environment=environment(world))
            )
        producer = await stack.enter_async_context(asking(world))
        ledger = await asyncpg.connect(world.addresses.postgres)
        stack.push_async_callback(ledger.close)
        us = Ours(world, producer, ledger)
        await us.burst(warm_up)
        yield us


@asynccontextmanager
async def asking(world: World) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer, as anybody's."""
    producer = AIOKafkaProducer(bootstrap_servers=world.addresses.kafka, acks="all", enable_idempotence=False)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def ask_all(producer: AIOKafkaProducer, tenants: Iterable[str]) -> None:
    """One request each, as fast as Kafka takes them."""
    for tenant in tenants:
        await producer.send(TOPIC, key=tenant.encode(), value=b'{"tenant_id":"%b"}' % tenant.encode())
    await producer.flush()


async def add_tenants(ledger: "asyncpg.Connection[Any]", tenants: Sequence[str]) -> None:
    """Active tenants, as far as they are not there yet."""
    await ledger.execute(_TENANTS, tenants)


async def init(world: World) -> None:
    """Schema, topics and buckets, as an operator makes them."""
    async with world.process("init", [sys.executable, "-m", "streams.cli", "init"], environment=environment(world)) as child:
        if await child.wait():
            raise RuntimeError(f"tidemill init failed; see {world.logs / 'init.log'}")


def environment(world: World) -> dict[str, str]:
    """A worker's settings: the defaults that ship, with the bench's pipeline and the stub in place of the engine."""
    return world.addresses.environment() | {
        "TIDEMILL_HOME": str(world.home),
        "TIDEMILL_PIPELINES": "bench.pipeline:PIPELINES",
        "TIDEMILL_SERVICES": "bench.pipeline:open_services",
        "TIDEMILL_ML_ENGINE__URL": world.stub.url,
        "TIDEMILL_LOG_LEVEL": "warning",
    }
