"""The ML Engine and the inference service in this process: S3 is a dictionary, Kafka a list, children are threads."""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.errors import KafkaConnectionError

from reference.errors import Failed, Refused
from reference.inference.model import Item
from reference.inference.service import Inference
from reference.ml_engine.service import Engine
from reference.settings import INDICES_BUCKET, MODELS_BUCKET, TRAINING_BUCKET, ReferenceSettings
from reference.store import Object
from reference.synthetic import generate, write
from schemas.cloudevents import Origin, decode
from schemas.training import IndexBuilt, TrainingCompleted

RUN = "0b6f4f0e-3b1c-5f43-9a39-1c5e0d1f2a3b"


class FakeStore:
    """S3 as a dictionary."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, str], bytes] = {}
        self.down = False

    async def objects(self, bucket: str, prefix: str) -> list[Object]:
        return [Object(key, len(data)) for (where, key), data in sorted(self.data.items()) if where == bucket and key.startswith(prefix)]

    async def fetch(self, bucket: str, key: str, file: Path) -> None:
        if self.down:
            raise Failed("store_unavailable", "S3 is down")
        if (bucket, key) not in self.data:
            raise Failed("no_object", key)
        await asyncio.to_thread(file.write_bytes, self.data[bucket, key])

    async def put(self, bucket: str, key: str, file: Path) -> None:
        self.data[bucket, key] = await asyncio.to_thread(file.read_bytes)


class FakeProducer:
    """Kafka as a list; fails as often as it is told."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.failures = 0

    async def open(self) -> "FakeProducer":
        if self.failures:
            self.failures -= 1
            raise KafkaConnectionError
        return self

    async def send_and_wait(self, topic: str, *, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> None:
        self.sent.append(decode(key, value, headers, Origin("c", topic, 0, 0, 0)))

    async def stop(self) -> None:
        pass


class FakeCache:
    def __init__(self) -> None:
        self.warmed: dict[tuple[str, int], list[Item]] = {}
        self.down = False

    async def warm(self, tenant_id: str, version: int, items: list[Item], *, refresh: bool) -> int:
        if self.down:
            raise Refused(503, "cache_unavailable", "Redis does not answer")
        self.warmed[tenant_id, version] = items
        return len(items)

    async def close(self) -> None:
        pass


async def inline(function: str, *arguments: Any) -> Any:
    """What a child process would do, in a thread."""
    module, _, name = function.partition(":")
    return await asyncio.to_thread(getattr(importlib.import_module(module), name), *arguments)


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(gate: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = gate._app._app._app
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def settings(tmp_path: Path) -> ReferenceSettings:
    return ReferenceSettings(data=tmp_path / "state", allow_faults=True)


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    store = FakeStore()
    for file in write(generate("acme", 60, 40, 800, 1).train, tmp_path / "raw"):
        store.data[TRAINING_BUCKET, f"training-data/acme/latest/{file.name}"] = file.read_bytes()
    store.data[TRAINING_BUCKET, "training-data/acme/latest/part-9.json"] = b""
    return store


@pytest.fixture
def kafka() -> FakeProducer:
    return FakeProducer()


def train_call(tenant: str = "acme", **changes: Any) -> dict[str, Any]:
    data = {"type": "s3", "bucket": TRAINING_BUCKET, "path": f"training-data/{tenant}/latest/"}
    config = {"model_type": "matrix_factorization", "base_model": None, "epochs": 2, "batch_size": 64, "factors": 8}
    return {"tenant_id": tenant, "data_source": data, "model_config": config, "output_path": f"models/{tenant}/{RUN}/1/"} | changes


def key(stage: str = "train", round: int = 1) -> dict[str, str]:
    return {"Idempotency-Key": f"{RUN}:{stage}:{round}"}


async def ended(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = (await client.get(f"/api/v1/jobs/{job_id}/status")).json()
        if job["status"] not in ("pending", "running"):
            return job
        await asyncio.sleep(0.01)


async def told(kafka: FakeProducer, count: int = 1) -> list[Any]:
    while len(kafka.sent) < count:  # noqa: ASYNC110  # the producer is the engine's, it knows no event of ours
        await asyncio.sleep(0.01)
    return kafka.sent


async def test_a_job_trains_writes_its_model_and_calls_back(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        accepted = await client.post("/api/v1/train", json=train_call(), headers=key())
        assert accepted.status_code == 202
        job_id = accepted.json()["job_id"]
        job = await ended(client, job_id)
        (received,) = await told(kafka)
    assert job["status"] == "completed"
    assert job["model_path"] == f"models/acme/{RUN}/1/{job_id}"
    manifest = json.loads(store.data[MODELS_BUCKET, f"{job['model_path']}/manifest.json"])
    assert (manifest["tenant_id"], manifest["run_id"], manifest["job_id"], manifest["dim"]) == ("acme", RUN, job_id, 8)
    assert isinstance(received.event, TrainingCompleted)
    assert (received.event.job_id, received.event.status, received.event.model_path) == (job_id, "completed", job["model_path"])
    assert received.event.metrics["interactions"] > 0


async def test_a_job_cut_short_by_a_restart_is_done_under_the_same_id(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    async with serving(Engine(settings, store, kafka.open, never).app()) as client:
        job_id = (await client.post("/api/v1/train", json=train_call(), headers=key())).json()["job_id"]
        await asyncio.sleep(0.05)
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        assert (await ended(client, job_id))["status"] == "completed"
        again = await client.post("/api/v1/train", json=train_call(), headers=key())
        other = await client.post("/api/v1/train", json=train_call(), headers=key(round=2))
        assert again.json()["job_id"] == job_id != other.json()["job_id"]
        assert len((await client.get("/journal?tenant=acme")).json()) == 2


async def test_a_callback_waits_for_kafka_and_keeps_its_id_over_a_restart(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    kafka.failures = 1_000
    engine = Engine(settings, store, kafka.open, inline)
    async with serving(engine.app()) as client:
        job_id = (await client.post("/api/v1/train", json=train_call(), headers=key())).json()["job_id"]
        await ended(client, job_id)
    kafka.failures = 1
    engine = Engine(settings, store, kafka.open, inline)
    engine.callbacks._pause = 0.01
    async with serving(engine.app()):
        (received,) = await told(kafka)
    assert received.event.job_id == job_id
    assert received.meta.source == "ml-engine"


@pytest.mark.parametrize(
    ("content", "code"), [(None, "no_data"), (b'{"user_id": "u", "item_id": "i"}', "too_little_data"), (b"{", "unreadable_file")]
)
async def test_data_not_worth_training_on_fails_the_job_by_name(
    settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer, content: bytes | None, code: str
) -> None:
    store.data[TRAINING_BUCKET, "training-data/bolt/latest/_SUCCESS"] = b"x"
    if content is not None:
        store.data[TRAINING_BUCKET, "training-data/bolt/latest/a.json"] = content
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        job_id = (await client.post("/api/v1/train", json=train_call("bolt"))).json()["job_id"]
        job = await ended(client, job_id)
        (received,) = await told(kafka)
    assert job["status"] == "failed"
    assert job["error"].startswith(f"{code}: ")
    assert received.event.status == "failed"
    assert code in received.event.failure.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"output_path": "models/bolt/x/"},
        {"output_path": "models/acme/../bolt/"},
        {"output_path": "models/acme//x"},
        {"output_path": "models/acme/%2e%2e/x"},
        {"output_path": "s3://models/acme/x"},
        {"data_source": {"type": "s3", "bucket": TRAINING_BUCKET, "path": "training-data/bolt/latest/"}},
    ],
)
async def test_a_path_of_somebody_else_is_refused(
    settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer, changes: dict[str, Any]
) -> None:
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        reply = await client.post("/api/v1/train", json=train_call(**changes))
        assert (reply.status_code, reply.json()["code"]) == (422, "foreign_path")


async def test_a_cancelled_job_stays_cancelled_and_says_so(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    async with serving(Engine(settings, store, kafka.open, never).app()) as client:
        job_id = (await client.post("/api/v1/train", json=train_call(), headers=key())).json()["job_id"]
        for _ in range(2):
            reply = await client.post(f"/api/v1/jobs/{job_id}/cancel", json={}, headers={"Idempotency-Key": f"cancel:{job_id}"})
            assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
        (received,) = await told(kafka)
        assert received.event.status == "cancelled"
        assert (await client.post("/api/v1/jobs/nope/cancel")).status_code == 404
        assert [row["tenant_id"] for row in (await client.get("/journal")).json()] == ["acme", "acme"]


async def test_the_engine_lies_about_jobs_when_told_to(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        job_id = (await client.post("/api/v1/train", json=train_call(), headers=key())).json()["job_id"]
        await ended(client, job_id)
        lies = []
        for mode in ("wrong_job_id", "backward_status", "forget_job"):
            await client.post("/_faults", json={"mode": mode, "path": "/api/v1/jobs/"})
            lies.append(await client.get(f"/api/v1/jobs/{job_id}/status"))
        assert lies[0].json()["job_id"] != job_id
        assert lies[1].json()["status"] == "running"
        assert lies[2].status_code == 404
        assert (await ended(client, job_id))["status"] == "completed"


async def build_all(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> dict[str, Any]:
    """A model and an index of acme in S3; what a deploy call says of them."""
    async with serving(Engine(settings, store, kafka.open, inline).app()) as client:
        job = await ended(client, (await client.post("/api/v1/train", json=train_call(), headers=key())).json()["job_id"])
        call = {"tenant_id": "acme", "model_path": job["model_path"], "index_type": "IVF", "nlist": 8, "output_path": f"indices/acme/{RUN}/1/"}
        started = (await client.post("/api/v1/index/build", json=call, headers=key("index"))).json()
        built = await ended(client, started["job_id"])
        events = await told(kafka, 2)
    assert built["index_path"] == built["result"]["index_path"] == started["index_path"]
    assert isinstance(events[1].event, IndexBuilt)
    assert events[1].event.job_id == started["job_id"]
    return {"tenant_id": "acme", "model_path": job["model_path"], "index_path": built["index_path"], "config": {}}


async def test_a_deployed_version_recommends_what_users_do_not_have_and_serves_again_after_a_restart(
    settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer
) -> None:
    files = await build_all(settings, store, kafka)
    async with serving(Inference(settings, store, FakeCache(), inline).app()) as client:  # type: ignore[arg-type]
        assert (await client.get("/api/v1/recommend/acme/u")).json()["code"] == "nothing_deployed"
        deployed = await client.post("/api/v1/deploy", json=files | {"version": 1, "expected_version": 0}, headers=key("deploy"))
        assert deployed.json() == {"tenant_id": "acme", "version": 1, "previous_version": None, "status": "live"}
        assert (await client.get("/api/v1/health/acme/1")).json()["vectors"] == 40
        assert (await client.get("/api/v1/health/acme/2")).status_code == 404
        known = (await client.get("/api/v1/recommend/acme/acme-u000001?k=5")).json()
        unknown = (await client.get("/api/v1/recommend/acme/some/body")).json()
    store.down = True  # a restart needs nothing but its disk
    async with serving(Inference(settings, store, FakeCache(), inline).app()) as client:  # type: ignore[arg-type]
        while (reply := await client.get("/api/v1/recommend/acme/acme-u000001?k=5")).status_code == 503:
            assert reply.json()["code"] == "loading"
            await asyncio.sleep(0.01)
    had = {r["item_id"] for r in generate("acme", 60, 40, 800, 1).train.to_pylist() if r["user_id"] == "acme-u000001"}
    assert reply.json() == known
    assert (known["version"], known["fallback"], len(known["items"])) == (1, False, 5)
    assert had.isdisjoint(item["item_id"] for item in known["items"])
    assert (unknown["fallback"], len(unknown["items"])) == (True, 10)


async def test_only_who_knows_the_live_version_may_replace_it(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    files = await build_all(settings, store, kafka)
    async with serving(Inference(settings, store, FakeCache(), inline).app()) as client:  # type: ignore[arg-type]
        replies = [
            await client.post("/api/v1/deploy", json=files | {"version": version, "expected_version": expected})
            for version, expected in ((1, None), (1, 0), (2, None), (2, 1), (1, 1))
        ]
        assert [reply.status_code for reply in replies] == [200, 200, 409, 200, 409]
        assert replies[2].json()["code"] == "version_conflict"
        assert replies[2].json()["live"] == 1
        state = (await client.get("/api/v1/deployments/acme")).json()
        assert (state["live"], [one["version"] for one in state["history"]]) == (2, [2, 1])


async def test_a_bad_artifact_is_refused_and_the_live_version_stays(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    files = await build_all(settings, store, kafka)
    async with serving(Inference(settings, store, FakeCache(), inline).app()) as client:  # type: ignore[arg-type]
        await client.post("/api/v1/deploy", json=files | {"version": 1})
        index = (INDICES_BUCKET, f"{files['index_path']}/index.faiss")
        good = store.data[index]
        store.data[index] = good[:-1] + b"x"
        call = files | {"version": 2, "expected_version": 1}
        corrupt = await client.post("/api/v1/deploy", json=call)
        assert (corrupt.status_code, corrupt.json()["code"]) == (422, "checksum_mismatch")
        foreign = await client.post("/api/v1/deploy", json=call | {"index_path": "indices/bolt/1"})
        assert foreign.json()["code"] == "foreign_path"
        store.down = True
        assert (await client.post("/api/v1/deploy", json=call)).json()["code"] == "store_unavailable"
        assert (await client.get("/api/v1/health/acme/1")).status_code == 200
        store.down, store.data[index] = False, good
        assert (await client.post("/api/v1/deploy", json=call)).status_code == 200


async def test_warming_names_the_version_and_says_when_redis_is_down(settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer) -> None:
    files, cache = await build_all(settings, store, kafka), FakeCache()
    async with serving(Inference(settings, store, cache, inline).app()) as client:  # type: ignore[arg-type]
        await client.post("/api/v1/deploy", json=files | {"version": 1})
        call = {"tenant_id": "acme", "version": 1, "top_k": 1000, "force_refresh": True}
        assert (await client.post("/api/v1/cache/warm", json=call)).json()["items"] == 40
        assert (await client.post("/api/v1/cache/warm", json=call | {"version": 2})).json()["code"] == "version_conflict"
        cache.down = True
        down = await client.post("/api/v1/cache/warm", json=call, headers=key("warm"))
        assert (down.status_code, down.json()["code"]) == (503, "cache_unavailable")
        cache.down = False
        assert (await client.post("/api/v1/cache/warm", json=call, headers=key("warm"))).status_code == 200
    scores = [item.score for item in cache.warmed["acme", 1]]
    assert scores == sorted(scores, reverse=True)
