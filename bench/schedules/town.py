"""Workers with the pipeline of one stage, a ledger in which earlier parts rest, and a reader of `training.requested`."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer

from bench.ours import environment
from bench.world import World
from streams.ledger.connection import connect

TOPIC = "training.requested"
_OPEN = "select (select count(*) from runs where state in ('pending', 'running', 'cancelling')) + (select count(*) from outbox)"
_WARMED = "select count(*) from runs where finished_at is not null and tenant_id like $1"
# a ledger whose rows were taken away would count as lost: what earlier parts left is put to rest instead
_FORGET = """
with gone as (delete from schedules), slot as (delete from slots) update tenants set status = 'suspended'
"""


class Town:
    """The workers of one part, seen from the benchmark."""

    def __init__(self, world: World, ledger: "asyncpg.Connection[Any]") -> None:
        self.world, self.ledger = world, ledger

    async def tenants(self, count: int, prefix: str | None = None) -> None:
        """So many active tenants; without a prefix of their own those of earlier parts are not among them."""
        prefix = prefix or f"t{uuid4().hex[:6]}"
        await self.ledger.execute("insert into tenants (tenant_id) select $2 || '-' || n from generate_series(1, $1) n", count, prefix)
        await self.ledger.execute("insert into tenant_heads (tenant_id) select tenant_id from tenants on conflict do nothing")
        await self.ledger.execute("analyze tenants")

    async def kill(self, slot: int) -> None:
        """SIGKILL to the worker of a slot."""
        pid = await self.ledger.fetchval("select pid from workers where slot = $1 and lease_until > clock_timestamp()", slot)
        os.kill(pid, signal.SIGKILL)

    async def over(self, *, within: float = 240) -> None:
        """Nothing is open, and everything is published and read again."""
        async with asyncio.timeout(within):
            while await self.ledger.fetchval(_OPEN):  # noqa: ASYNC110  # it ends in other processes
                await asyncio.sleep(0.2)
        await asyncio.sleep(2)


@asynccontextmanager
async def town(world: World, *, workers: int) -> AsyncIterator[Town]:
    """So many workers that have their partitions, and nobody active."""
    async with AsyncExitStack() as stack:
        ledger = await connect(world.addresses.postgres, timeout=120, name="bench")
        stack.push_async_callback(ledger.close)
        await ledger.execute(_FORGET)
        settings = environment(world) | {"TIDEMILL_PIPELINES": "bench.schedules.pipeline:PIPELINES", "TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create"}
        for number in range(workers):
            argv = [sys.executable, "-m", "streams.cli", "worker"]
            await stack.enter_async_context(world.process(f"worker-{number + 1}", argv, environment=settings))
        us = Town(world, ledger)
        await _until_they_work(us, workers)
        await world.stub.reset()
        yield us
        await us.over()


async def _until_they_work(us: Town, workers: int) -> None:
    """Every partition is read: a request to each tenant of a hundred has become a run."""
    from aiokafka import AIOKafkaProducer

    async with asyncio.timeout(90):
        while await us.ledger.fetchval("select count(*) from workers where lease_until > clock_timestamp()") < workers:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    warm = f"warm-{uuid4().hex[:8]}"
    producer = AIOKafkaProducer(bootstrap_servers=us.world.addresses.kafka, acks="all", enable_idempotence=False)
    await producer.start()
    try:
        for number in range(100):
            name = f"{warm}-{number}"
            await producer.send(TOPIC, key=name.encode(), value=json.dumps({"tenant_id": name}).encode())
        await producer.flush()
    finally:
        await producer.stop()
    async with asyncio.timeout(90):
        while await us.ledger.fetchval(_WARMED, f"{warm}-%") < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await us.over()
    await us.ledger.execute("update tenants set status = 'suspended'")


class Requests:
    """What appears on the topic; it is taken as it comes and read later, so that looking costs those who work little."""

    def __init__(self) -> None:
        self._taken: list[tuple[Any, float]] = []

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                at = time.time()
                self._taken += [(record, at) for record in records]

    @property
    def count(self) -> int:
        return len(self._taken)

    @property
    def seen(self) -> list[tuple[str, str, str, float]]:
        """For each request its tenant, its slot, its id and when it was seen, by the wall clock."""
        found = []
        for record, at in self._taken:
            data = json.loads(record.value or b"{}")
            if data.get("slot"):
                found.append((data["tenant_id"], data["slot"], dict(record.headers).get("ce_id", b"").decode(), at))
        return found


@asynccontextmanager
async def requests(world: World) -> AsyncIterator[Requests]:
    """A reader that begins at the end of the topic."""
    found = Requests()
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=world.addresses.kafka, group_id=f"bench-{uuid4()}", auto_offset_reset="latest")
    await consumer.start()
    await consumer.seek_to_end()
    reading = asyncio.create_task(found.read(consumer))
    try:
        yield found
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await consumer.stop()
