"""Sets the stage for rounds: a town, tenants with data, a publisher, a watch; and takes it down again."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aioboto3
import asyncpg
import httpx

from streams.kafka import wait_for_cluster
from streams.local.addresses import Addresses
from streams.local.stack import running
from streams.pipelines import Pipelines
from streams.settings import KafkaSettings, Settings
from tests.chaos.gather import Gatherer
from tests.chaos.load import Publisher
from tests.chaos.rounds import Round
from tests.chaos.scene import Scene
from tests.chaos.schedules import Schedules
from tests.chaos.town import Town
from tests.chaos.watch import Watch

SCHEDULED = 6
"""Tenants with a schedule of their own."""
NO_REUSE = httpx.Limits(max_keepalive_connections=0)
"""A command to a stub must not meet a connection that the stub has just closed."""
MAY_FAIL = frozenset[str]()
"""Codes of failures that the stub neighbours plant for good."""


@asynccontextmanager
async def staged(
    home: Path,
    *,
    seed: int,
    workers: int,
    tenants: int,
    rate: float,
    settings: Mapping[str, str],
    say: Callable[[str], None],
    mutant: str | None = None,
) -> AsyncIterator[Round]:
    """Everything up and loaded; nothing of it is left afterwards."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # ours is one of those whom the broker leaves alone
    town = Town(home, workers=workers, settings=settings, mutant=mutant, say=say)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(town))
        names = [f"chaos-{number:02d}" for number in range(1, tenants + 1)]
        scheduled = [f"scheduled-{number}" for number in range(1, SCHEDULED + 1)]
        data = await furnish(town.addresses, [*names, *scheduled])
        stack.push_async_callback(town.leave)
        await town.settle()
        watch = Watch(town.addresses.postgres)
        stack.push_async_callback(watch.close)
        schedules = Schedules(watch, scheduled)
        await schedules.make()
        publisher = Publisher(town.addresses.kafka, names, rate, seed)
        tasks = (asyncio.create_task(watch.run()), asyncio.create_task(publisher.run()))
        for task in tasks:
            stack.push_async_callback(_ended, task)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False, limits=NO_REUSE))
        scene = Scene(town, watch, random.Random(seed), http)
        cluster = await wait_for_cluster(KafkaSettings(bootstrap=town.addresses.kafka))
        read = frozenset(Pipelines.load(Settings()).topics)
        gatherer = Gatherer(town.addresses, cluster=cluster, read=read, engine_index=True, data=data, may_fail=MAY_FAIL)
        yield Round(scene, publisher, schedules, gatherer, tasks)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def furnish(at: Addresses, tenants: list[str]) -> dict[str, tuple[int, int]]:
    """One tiny file of training data for each tenant; how many files and bytes that is."""
    session = aioboto3.Session(at.s3.access_key, at.s3.secret_key, region_name="us-east-1")
    row = {"user_id": "u1", "item_id": "i1", "interaction_type": "view", "timestamp": "2026-01-01T00:00:00Z"}
    body = "".join(f"{json.dumps(row | {'item_id': f'i{number}'})}\n" for number in range(5)).encode()
    async with session.client("s3", endpoint_url=at.s3.endpoint) as s3:
        for tenant in tenants:
            await s3.put_object(Bucket="embeddings-training-data", Key=f"training-data/{tenant}/latest/part-0.jsonl", Body=body)
    return dict.fromkeys(tenants, (1, len(body)))


async def one_value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
