"""The limit as a contestant: the bare loop of `limit.py` in a process, asked over Kafka for runs."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count as counting

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench import figures, measure
from bench.figures import CALLS, Burst, Singles
from bench.limit import TOPIC
from bench.talk import Talker
from bench.world import World
from streams.settings import KafkaSettings

_round = counting()


class Bare:
    """One process of it."""

    def __init__(self, world: World, talker: Talker, producer: AIOKafkaProducer) -> None:
        self._world, self._talker, self._producer = world, talker, producer

    async def parts(self, count: int) -> dict[str, list[float]]:
        """Seconds of a raw Kafka hop, a call, a commit, each alone."""
        found: dict[str, list[float]] = await self._talker.ask(parts=count)
        return found

    async def single(self, count: int) -> Singles:
        await self._world.stub.reset()
        asked: dict[str, float] = {}
        for number, run in enumerate(names(count)):
            asked[run] = time.monotonic()
            await self._producer.send(TOPIC, key=run.encode(), value=b"{}")
            await self._world.stub.wait(CALLS * (number + 1), timeout=30)
            await asyncio.sleep(0.02)
        runs = figures.by_run(await self._world.stub.hits())
        figures.check(runs, count)
        return Singles(figures.gaps(runs), [runs[run][0] - at for run, at in asked.items()])

    async def burst(self, count: int) -> Burst:
        async def begin() -> None:
            for delivery in [await self._producer.send(TOPIC, key=run.encode(), value=b"{}") for run in names(count)]:
                await delivery

        async def over() -> None:
            """Nothing is left to do once the last commit is made, a moment after the last call."""

        return await measure.burst(self._world, count, begin, over)


def names(count: int) -> list[str]:
    batch = next(_round)
    return [f"bare-{os.getpid()}-{batch}-{number}" for number in range(count)]


@asynccontextmanager
async def bare(world: World, *, warm_up: int = 100) -> AsyncIterator[Bare]:
    """The loop, once it has worked a little."""
    environment = {"BENCH_STUB": world.stub.url, "BENCH_DSN": world.addresses.postgres, "BENCH_KAFKA": world.addresses.kafka}
    async with world.process("limit", [sys.executable, "-m", "bench.limit"], environment=environment, talk=True) as child:
        talker = Talker(world, "limit", child)
        await talker.answer()
        producer = AIOKafkaProducer(bootstrap_servers=world.addresses.kafka, acks="all", enable_idempotence=False)
        await producer.start()
        try:
            loop = Bare(world, talker, producer)
            await loop.burst(warm_up)
            yield loop
        finally:
            await producer.stop()


async def prepare(world: World) -> None:
    """Its topics, with as many partitions as ours."""
    admin = AIOKafkaAdminClient(bootstrap_servers=world.addresses.kafka)
    await admin.start()
    try:
        there = set(await admin.list_topics())
        new = [
            NewTopic(name, num_partitions=KafkaSettings().partitions, replication_factor=1) for name in (TOPIC, TOPIC + ".out") if name not in there
        ]
        if new:
            await admin.create_topics(new)
    finally:
        await admin.close()
