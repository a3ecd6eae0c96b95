"""The three neighbours as processes on real servers: train, index, deploy, recommend, and survive being killed."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aioboto3
import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from reference import children
from reference.errors import Failed
from reference.synthetic import Dataset, generate, popularity, write
from schemas.cloudevents import Origin, Received, decode
from schemas.training import TrainingCompleted
from streams.local.addresses import Addresses
from streams.local.stack import BUCKETS, running_stack

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Neighbour:
    """One service as a process that can be killed and started again at the same place."""

    module: str
    port: int
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    async def start(self) -> float:
        """Seconds until it answers."""
        started = time.monotonic()
        own = {"REFERENCE_PORT": str(self.port)}
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-m", self.module, env=os.environ | self.environment | own)
        async with self.http as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    assert (await client.get("/healthz")).status_code == 200
                    return time.monotonic() - started
                await asyncio.sleep(0.05)

    async def end(self, by: signal.Signals) -> float:
        """Seconds until it was gone."""
        started = time.monotonic()
        assert self.process is not None
        self.process.send_signal(by)
        await self.process.wait()
        return time.monotonic() - started


@dataclass
class Town:
    """All neighbours, and the data tenant acme has in S3."""

    ml_engine: Neighbour
    inference: Neighbour
    monitoring: Neighbour
    addresses: Addresses
    data: Dataset


def free_ports(count: int) -> list[int]:
    """Ports below the range of outgoing connections that nobody listens on."""
    found: list[int] = []
    for port in range(21_000 + os.getpid() % 5000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@asynccontextmanager
async def alive(neighbour: Neighbour) -> AsyncIterator[Neighbour]:
    await neighbour.start()
    try:
        yield neighbour
    finally:
        await neighbour.end(signal.SIGTERM)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    data = generate("acme", 500, 300, 12_000, 5)
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(running_stack(folder / "home"))
        await furnish(addresses)
        await upload(addresses, "training-data/acme/latest", write(data.train, folder / "raw", "parquet"))
        environment = {
            "REFERENCE_DATA": str(folder / "state"),
            "REFERENCE_KAFKA": addresses.kafka,
            "REFERENCE_S3_ENDPOINT": addresses.s3.endpoint,
            "REFERENCE_S3_ACCESS_KEY": addresses.s3.access_key,
            "REFERENCE_S3_SECRET_KEY": addresses.s3.secret_key,
            "REFERENCE_REDIS_URL": addresses.redis,
            "REFERENCE_ALLOW_FAULTS": "1",
        }
        ports = free_ports(3)
        engine, inference, monitoring = (
            Neighbour(f"reference.{name}", port, environment) for name, port in zip(("ml_engine", "inference", "monitoring"), ports, strict=True)
        )
        for neighbour in (engine, inference, monitoring):
            await stack.enter_async_context(alive(neighbour))
        yield Town(engine, inference, monitoring, addresses, data)


async def furnish(addresses: Addresses) -> None:
    """The topics and buckets that `tidemill init` makes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=addresses.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1) for name in ("training.completed", "index.built")])
    finally:
        await admin.close()
    async with s3(addresses) as client:
        for bucket in BUCKETS:
            with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                await client.create_bucket(Bucket=bucket)


def s3(addresses: Addresses) -> Any:
    session = aioboto3.Session(addresses.s3.access_key, addresses.s3.secret_key, region_name="us-east-1")
    return session.client("s3", endpoint_url=addresses.s3.endpoint)


async def upload(addresses: Addresses, prefix: str, files: list[Path]) -> None:
    async with s3(addresses) as client:
        for file in files:
            await client.upload_file(str(file), "embeddings-training-data", f"{prefix}/{file.name}")


def train_call(run: str, tenant: str = "acme", **config: int) -> dict[str, Any]:
    data = {"type": "s3", "bucket": "embeddings-training-data", "path": f"training-data/{tenant}/latest/"}
    return {"tenant_id": tenant, "data_source": data, "model_config": config, "output_path": f"models/{tenant}/{run}/1/"}


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is something."""
    while not (found := await ask()):  # noqa: ASYNC110  # other processes set no event of ours
        await asyncio.sleep(0.05)
    return found


async def ended(neighbour: Neighbour, job_id: str) -> dict[str, Any]:
    async with neighbour.http as client:

        async def ask() -> Any:
            job = (await client.get(f"/api/v1/jobs/{job_id}/status")).json()
            return job if job["status"] not in ("pending", "running") else None

        return dict(await until(ask))


async def callbacks(addresses: Addresses, job_id: str, count: int = 1, patience: float = 20) -> list[Received]:
    """What Kafka holds about a job."""
    found: list[Received] = []
    consumer = AIOKafkaConsumer("training.completed", bootstrap_servers=addresses.kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(patience):
            while len(found) < count:
                record = await consumer.getone()
                received = decode(record.key, record.value, record.headers, Origin("c", record.topic, 0, record.offset, record.timestamp))
                assert isinstance(received.event, TrainingCompleted)
                found += [received] if received.event.job_id == job_id else []
    finally:
        await consumer.stop()
    return found


async def test_from_data_to_recommendations_that_beat_popularity(town: Town) -> None:
    run = str(uuid4())
    async with town.ml_engine.http as engine:
        started = await engine.post("/api/v1/train", json=train_call(run, epochs=10, factors=32), headers={"Idempotency-Key": f"{run}:train:1"})
        job = await ended(town.ml_engine, started.json()["job_id"])
        (told,) = await callbacks(town.addresses, job["job_id"])
        assert isinstance(told.event, TrainingCompleted)
        assert (told.event.status, told.event.model_path) == ("completed", job["model_path"])
        call = {"tenant_id": "acme", "model_path": job["model_path"], "index_type": "IVF", "nlist": 8, "output_path": f"indices/acme/{run}/1/"}
        built = await ended(town.ml_engine, (await engine.post("/api/v1/index/build", json=call)).json()["job_id"])
    async with town.inference.http as inference:
        live = (await deployments(town))["live"] or 0
        call = {
            "tenant_id": "acme",
            "version": live + 1,
            "expected_version": live,
            "model_path": job["model_path"],
            "index_path": built["index_path"],
        }
        deployed = await inference.post("/api/v1/deploy", json=call, headers={"Idempotency-Key": f"{run}:deploy:1"})
        assert deployed.json()["version"] == live + 1, deployed.text
        warm = await inference.post("/api/v1/cache/warm", json={"tenant_id": "acme", "version": live + 1, "top_k": 100, "force_refresh": True})
        assert warm.json()["items"] == 100, warm.text
        async with Redis.from_url(town.addresses.redis) as redis:
            assert await redis.zcard(f"tidemill:top:acme:{live + 1}") == 100
        held = dict(zip(town.data.heldout["user_id"].to_pylist(), town.data.heldout["item_id"].to_pylist(), strict=True))
        hits = 0
        for user, item in held.items():
            answer = (await inference.get(f"/api/v1/recommend/acme/{user}?k=10")).json()
            hits += item in {one["item_id"] for one in answer["items"]}
    popular = popularity(town.data.train)
    assert hits > 1.5 * sum(item in popular(user) for user, item in held.items())


async def test_killed_in_the_middle_of_a_job_the_engine_finishes_it_under_the_same_id_with_one_effect(town: Town) -> None:
    run = str(uuid4())
    call, key = train_call(run, epochs=120, factors=64), {"Idempotency-Key": f"{run}:train:1"}
    async with town.ml_engine.http as engine:
        job_id = (await engine.post("/api/v1/train", json=call, headers=key)).json()["job_id"]
    await asyncio.sleep(0.5)
    await town.ml_engine.end(signal.SIGKILL)
    await town.ml_engine.start()
    job = await ended(town.ml_engine, job_id)
    assert job["status"] == "completed"
    async with town.ml_engine.http as engine:
        assert (await engine.post("/api/v1/train", json=call, headers=key)).json() == {"job_id": job_id}
        journal = (await engine.get("/journal?tenant=acme")).json()
    assert len([row for row in journal if row["idempotency_key"] == key["Idempotency-Key"]]) == 1
    ids = {told.meta.id for told in await callbacks(town.addresses, job_id)}
    assert len(ids) == 1


async def test_a_cancelled_job_is_killed_and_reported(town: Town) -> None:
    run = str(uuid4())
    async with town.ml_engine.http as engine:
        job_id = (await engine.post("/api/v1/train", json=train_call(run, epochs=1000, factors=128))).json()["job_id"]
        await asyncio.sleep(0.3)
        assert (await engine.post(f"/api/v1/jobs/{job_id}/cancel", json={})).json()["status"] == "cancelled"
    (told,) = await callbacks(town.addresses, job_id)
    assert isinstance(told.event, TrainingCompleted)
    assert told.event.status == "cancelled"


async def test_missing_and_broken_data_fail_by_name(town: Town, tmp_path: Path) -> None:
    broken = tmp_path / "part-0.parquet"
    broken.write_bytes(b"PAR1 nothing PAR1")
    await upload(town.addresses, "training-data/bolt/latest", [broken])
    async with town.ml_engine.http as engine:
        for tenant, code in (("bolt", "unreadable_file"), ("nodata", "no_data")):
            job_id = (await engine.post("/api/v1/train", json=train_call(str(uuid4()), tenant))).json()["job_id"]
            job = await ended(town.ml_engine, job_id)
            assert (job["status"], job["error"].split(":")[0]) == ("failed", code)


async def test_the_inference_service_serves_again_after_a_restart(town: Town) -> None:
    await make_live(town)
    before = await recommended(town)
    await town.inference.end(signal.SIGKILL)
    await town.inference.start()
    assert await until(lambda: recommended(town)) == before


async def test_a_crafted_index_is_read_in_a_child_only_and_what_is_live_stays(town: Town) -> None:
    live = await make_live(town)
    before, crafted = await recommended(town), b"IxFI" + b"\x7f" * 200
    folder = f"indices/acme/{uuid4()}"
    async with s3(town.addresses) as client:
        kept = {"Bucket": "embeddings-indices", "Key": f"{live['index_path']}/manifest.json"}
        manifest = json.loads(await (await client.get_object(**kept))["Body"].read())
        manifest["sha256"]["index.faiss"] = hashlib.sha256(crafted).hexdigest()
        for name, body in (("index.faiss", crafted), ("manifest.json", json.dumps(manifest).encode())):
            await client.put_object(Bucket="embeddings-indices", Key=f"{folder}/{name}", Body=body)
        source = {"Bucket": "embeddings-indices", "Key": f"{live['index_path']}/items.ids"}
        await client.copy_object(Bucket="embeddings-indices", Key=f"{folder}/items.ids", CopySource=source)
    async with town.inference.http as inference:
        call = {
            "tenant_id": "acme",
            "version": live["version"] + 1,
            "expected_version": live["version"],
            "model_path": live["model_path"],
            "index_path": folder,
        }
        refused = await inference.post("/api/v1/deploy", json=call)
        assert (refused.status_code, refused.json()["code"]) == (422, "unreadable_artifact"), refused.text
    assert await recommended(town) == before


async def test_a_child_that_dies_takes_nobody_along() -> None:
    with pytest.raises(Failed, match="child_died"):
        await children.call("os:abort")
    with pytest.raises(Failed, match="ZeroDivisionError"):
        await children.call("operator:truediv", 1, 0)
    assert await children.call("operator:add", 1, 2) == 3


async def make_live(town: Town) -> dict[str, Any]:
    """The live deployment, made if this test runs before the one that makes it."""
    if not (await deployments(town))["live"]:
        await test_from_data_to_recommendations_that_beat_popularity(town)
    return dict((await deployments(town))["history"][0])


async def deployments(town: Town) -> dict[str, Any]:
    async with town.inference.http as inference:
        return dict((await inference.get("/api/v1/deployments/acme")).json())


async def recommended(town: Town) -> Any:
    async with town.inference.http as inference:
        answer = await inference.get("/api/v1/recommend/acme/acme-u000001")
        return answer.json() if answer.status_code == 200 else None


async def test_a_cut_connection_is_a_reset_and_a_dropped_reply_is_still_one_effect(town: Town) -> None:
    alert = {"severity": "low", "title": "t", "message": "m", "tenant_id": "acme", "details": {}}
    async with town.monitoring.http as monitor:
        for mode in ("reset", "drop_reply"):
            await monitor.post("/_faults", json={"mode": mode})
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await monitor.post("/api/v1/alerts", json=alert, headers={"Idempotency-Key": "alert:x:opened"})
        again = await monitor.post("/api/v1/alerts", json=alert, headers={"Idempotency-Key": "alert:x:opened"})
        assert again.headers["idempotency-replayed"] == "true"
        assert len((await monitor.get("/api/v1/alerts?tenant=acme")).json()) == 1
        await monitor.post("/_faults", json={"mode": "hang"})
        with pytest.raises(httpx.ReadTimeout):
            await monitor.get("/api/v1/alerts", timeout=0.3)


async def test_a_service_ends_within_two_seconds_even_while_a_call_hangs(town: Town) -> None:
    async with town.monitoring.http as monitor:
        await monitor.post("/_faults", json={"mode": "hang"})
        hanging = asyncio.create_task(monitor.get("/api/v1/alerts"))
        await asyncio.sleep(0.2)
        assert await town.monitoring.end(signal.SIGTERM) < 5  # the caller would wait for 20
        assert town.monitoring.process is not None
        assert town.monitoring.process.returncode == 0
        await asyncio.gather(hanging, return_exceptions=True)
    await town.monitoring.start()
