"""What the tests of whole workers work with: real servers, the reference neighbours, a store behind a proxy, and the ledger to look into."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioboto3
import asyncpg
import httpx
from aiokafka import AIOKafkaProducer

from reference.synthetic import generate, write
from streams.local.ports import HOST
from streams.settings import from_stack
from tests.chaos.proxy import Proxy

PATIENCE = 60.0
EFFECTS = {"train": "/api/v1/train", "deploy": "/api/v1/deploy", "warm": "/api/v1/cache/warm"}
"""Stage -> the one command that a good run of it sends."""
QUICK = {
    "TIDEMILL_ML_ENGINE__POLL_EVERY": "PT2S",
    "TIDEMILL_RETRY__EVERY": "PT1S",
    "TIDEMILL_INFERENCE__HEALTH_DEADLINE": "PT20S",
    "TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create",
}


@dataclass
class House:
    """The servers, their addresses, and the ledger."""

    home: Path
    at: dict[str, Any]
    ledger: "asyncpg.Connection[Any]"
    store: Proxy
    http: httpx.AsyncClient

    @property
    def environment(self) -> dict[str, str]:
        store = {"TIDEMILL_S3__ENDPOINT": f"http://{HOST}:{self.store.port}"}
        return {**QUICK, **store, "TIDEMILL_HOME": str(self.home)}


async def furnish(house: House, tenant: str, folder: Path) -> None:
    """Tiny training data of one tenant."""
    files = write(generate(tenant, 30, 20, 400, seed=1).train, folder / tenant, parts=1)
    keys = house.at["s3"]
    session = aioboto3.Session(keys["access_key"], keys["secret_key"], region_name="us-east-1")
    async with session.client("s3", endpoint_url=keys["endpoint"]) as s3:
        for file in files:
            await s3.upload_file(str(file), "embeddings-training-data", f"training-data/{tenant}/latest/{file.name}")


async def publish(house: House, tenant: str, config: dict[str, int]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=from_stack(house.at)["kafka"]["bootstrap"], acks="all")
    await producer.start()
    try:
        value = json.dumps({"tenant_id": tenant, "model_config": config}).encode()
        await producer.send_and_wait("training.requested", value, key=tenant.encode())
    finally:
        await producer.stop()


async def in_state(house: House, tenant: str, stage: str, state: str) -> bool:
    query = "select count(*) from steps where tenant_id = $1 and stage = $2 and state = $3"
    return bool(await house.ledger.fetchval(query, tenant, stage, state))


async def finished(house: House, tenant: str, *, after: Any = None) -> Any:
    """A run that is over; another than `after`."""
    query = "select * from runs where tenant_id = $1 and finished_at is not null and run_id is distinct from $2"
    return await house.ledger.fetchrow(query, tenant, after)


async def state_of(house: House, tenant: str) -> str:
    steps = await house.ledger.fetch("select to_jsonb(s)::text from steps s where tenant_id = $1", tenant)
    return "\n".join(row[0] for row in steps)


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await ask()):
        assert time.monotonic() < deadline, "it did not happen in a minute"
        await asyncio.sleep(0.02)
    return found
