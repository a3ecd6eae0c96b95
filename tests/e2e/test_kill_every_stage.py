"""SIGKILL in the middle of each stage of the real pipeline: the run succeeds all the same, and no neighbour accepted anything twice."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioboto3
import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaProducer

from reference.synthetic import generate, write
from streams.local.ports import HOST
from streams.settings import from_stack
from tests.chaos.proxy import Proxy, address, proxied
from tests.chaos.workers import ROOT, Worker, clean_environment
from tests.integration.test_reference_neighbours import free_ports
from tests.stack import running_servers

pytestmark = pytest.mark.timeout(120)

PATIENCE = 60.0
QUICK = {
    "TIDEMILL_ML_ENGINE__POLL_EVERY": "PT2S",
    "TIDEMILL_RETRY__EVERY": "PT1S",
    "TIDEMILL_INFERENCE__HEALTH_DEADLINE": "PT20S",
    "TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create",
}


@dataclass(frozen=True)
class Kill:
    """Where the worker dies: at a fault point, or by our hand while the ledger shows the step in a state."""

    stage: str
    point: str | None = None
    state: str = "running"
    slow: tuple[str, str] | None = None
    """(neighbour, path) that is made slow so that the step is in hand long enough."""
    hold_store: bool = False
    config: tuple[tuple[str, int], ...] = (("epochs", 3), ("factors", 8))

    @property
    def name(self) -> str:
        return self.point or f"{self.stage}-{self.state}"


KILLS = [
    Kill("accept", "inbox.received"),
    Kill("accept", "inbox.recorded"),
    Kill("validate", hold_store=True),
    Kill("validate", "step.committed"),
    Kill("validate", "outbox.published"),
    Kill("train", "command.sending"),
    Kill("train", "command.sent"),
    Kill("train", "command.answered"),
    Kill("train", slow=("ml_engine", "/api/v1/train")),
    Kill("train", state="waiting", config=(("epochs", 400), ("factors", 64))),
    Kill("index", "index.uploading"),
    Kill("index", "index.uploaded"),
    Kill("index", "index.manifest"),
    Kill("deploy", "deploy.accepted"),
    Kill("deploy", slow=("inference", "/api/v1/deploy")),
    Kill("warm", "cache.warming"),
    Kill("warm", slow=("inference", "/api/v1/cache/warm")),
]
EFFECTS = {"train": "/api/v1/train", "deploy": "/api/v1/deploy", "warm": "/api/v1/cache/warm"}
"""What a succeeded run must have asked of its neighbours: stage and path, each once a round."""


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


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    home = tmp_path_factory.mktemp("kills", numbered=True) / "home"
    with running_servers(home, neighbours=True) as addresses:
        command = [sys.executable, "-m", "streams.cli", "init"]
        subprocess.run(command, cwd=ROOT, env=clean_environment({"TIDEMILL_HOME": str(home)}), check=True, timeout=60)
        yield home, addresses


@pytest.fixture
async def house(servers: tuple[Path, dict[str, Any]]) -> AsyncIterator[House]:
    home, at = servers
    async with AsyncExitStack() as stack:
        ledger = await asyncpg.connect(at["postgres"])
        stack.push_async_callback(ledger.close)
        store = await stack.enter_async_context(proxied(*address(at["s3"]["endpoint"]), free_ports(1)[0]))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        yield House(home, at, ledger, store, http)
        for neighbour in ("ml_engine", "inference"):
            await http.delete(f"{at[neighbour]}/_faults")


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.name)
async def test_a_worker_killed_in_any_stage_loses_and_doubles_nothing(house: House, kill: Kill, tmp_path: Path) -> None:
    tenant = f"kill-{kill.name.replace('.', '-').replace('_', '-')}"
    await furnish(house, tenant, tmp_path)
    worker = Worker(f"worker-{tenant}", house.home, house.environment)
    try:
        await worker.start(kill.point)
        await worker.ready()
        if kill.slow:
            neighbour, path = kill.slow
            fault = {"path": path, "mode": "delay", "seconds": 3, "times": 1, "tenant": tenant}
            (await house.http.post(f"{house.at[neighbour]}/_faults", json=fault)).raise_for_status()
        if kill.hold_store:
            house.store.hold()
        await publish(house, tenant, dict(kill.config))
        if kill.point is None:
            await until(lambda: in_state(house, tenant, kill.stage, kill.state))
            await worker.kill()
        assert await worker.ended() == -9
        house.store.heal()
        await worker.start()
        run = await until(lambda: finished(house, tenant))
    except AssertionError:
        sys.stderr.write(f"{await state_of(house, tenant)}\n{worker.said().decode()[-6000:]}")  # pytest shows it with the failure
        raise
    finally:
        house.store.heal()
        await worker.kill()
    assert run["state"] == "succeeded", (dict(run), worker.said().decode()[-2000:])
    await assert_one_effect_a_stage(house, tenant, str(run["run_id"]))
    assert await house.ledger.fetchval("select count(*) from runs where tenant_id = $1", tenant) == 1


async def assert_one_effect_a_stage(house: House, tenant: str, run: str) -> None:
    journal: list[dict[str, Any]] = []
    for neighbour in ("ml_engine", "inference"):
        journal += (await house.http.get(f"{house.at[neighbour]}/journal", params={"tenant": tenant})).json()
    accepted = Counter((":".join(row["idempotency_key"].split(":")[:3]), row["path"]) for row in journal)
    assert accepted == {(f"{run}:{stage}:1", path): 1 for stage, path in EFFECTS.items()}


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


async def finished(house: House, tenant: str) -> Any:
    return await house.ledger.fetchrow("select * from runs where tenant_id = $1 and finished_at is not null", tenant)


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
