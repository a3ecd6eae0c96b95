"""The platform's own training pipeline in the simulation: real stages and the real ledger's versions, the engine builds the index."""

import hashlib
import json
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from agents import TRAINING
from schemas.training import TrainingConfig
from streams.clients.inference import Conflict, Health
from streams.clients.ml_engine import JobStatus
from streams.ledger.connection import Connection
from streams.ledger.versions import LedgerVersions
from streams.services import Services
from streams.settings import IndexSettings, InferenceSettings, RetrySettings, Settings
from streams.stage import Pipeline
from streams.step import current
from tests.fakes import FakeMonitoring, FakeObjects, FakeQuality, InlineCpu
from tests.simulation.life import Life
from tests.simulation.neighbours import Engine, Neighbour
from tests.simulation.world import World

DATA = b'{"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": "2026-03-01T00:00:00Z"}\n'


class RealEngine(Engine):
    """The engine as `streams.clients.ml_engine` speaks of it."""

    def __init__(self, world: "RealWorld") -> None:
        super().__init__(world)
        self._objects = world.objects

    async def train(self, *, tenant_id: str, bucket: str, path: str, config: TrainingConfig | None, output_path: str) -> str:
        settings = config.model_dump(mode="json") if config else {}
        return await self.start("train", tenant_id, {"bucket": bucket, "path": path, "config": settings, "output_path": output_path})

    async def build_index(self, *, tenant_id: str, model_path: str, output_path: str, nlist: int | None = None) -> str:
        return await self.start("index", tenant_id, {"model_path": model_path, "output_path": output_path, "nlist": nlist})

    def facts(self, kind: str, tenant_id: str, body: dict[str, Any]) -> dict[str, Any]:
        where: str = body["output_path"].rstrip("/")
        if kind == "train":
            return {"model_path": where}
        digest = hashlib.sha256(where.encode()).hexdigest()
        facts = {"vectors": 4, "dim": 4, "kind": "Flat", "nlist": 0, "nprobe": 0, "recall": None, "model_path": body["model_path"]}
        manifest = facts | {"tenant_id": tenant_id, "run_id": where.split("/")[2], "sha256": {"index.faiss": digest}}
        self._objects.files["embeddings-indices", f"{where}/manifest.json"] = json.dumps(manifest).encode()
        return facts | {"index_path": where, "sha256": digest}

    async def job(self, job_id: str) -> JobStatus:
        status, job = await self.status(job_id)
        model_path = job.facts["model_path"] if job.kind == "train" else None
        return JobStatus(job_id=job_id, tenant_id=job.tenant_id, status=status, model_path=model_path, result=job.facts)

    async def cancel(self, job_id: str) -> None:
        step = current.get()
        assert step is not None
        await self.cancel_job(job_id, step.tenant_id)


class RealInference(Neighbour):
    """Serves one version a tenant, with compare-and-set; some versions never become healthy."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "inference")
        self.live: dict[str, int] = {}
        self.sick: set[tuple[str, int]] = set()

    async def deploy(
        self, *, tenant_id: str, version: int, model_path: str, index_path: str, expected_version: int, config: dict[str, Any], key: str | None = None
    ) -> Conflict | None:
        body = {"version": version, "model": model_path, "index": index_path, "expected": expected_version, "config": config}
        step = current.get()
        assert step is not None
        known = self.journal.get(key or step.key)
        if known is not None and known.body != body:
            return Conflict(None)  # 422: an earlier call under this key said something else
        reply = await self.command("deploy", tenant_id, body, lambda _: self._swap(tenant_id, version, expected_version, step.run_id), key=key)
        return Conflict(reply["conflict"]) if "conflict" in reply else None

    def _swap(self, tenant_id: str, version: int, expected: int, run_id: UUID) -> dict[str, Any]:
        live = self.live.get(tenant_id, 0)
        if live not in (expected, version):
            return {"conflict": live}
        self.live[tenant_id] = version
        if self.world.choices.chance(self.world.weather.refuses * 5):
            self.sick.add((tenant_id, version))
            self.world.refused.add(run_id)
        return {}

    async def health(self, tenant_id: str, version: int) -> Health:
        await self.question("health")
        if self.live.get(tenant_id) != version:
            return Health.UNKNOWN
        return Health.UNHEALTHY if (tenant_id, version) in self.sick else Health.HEALTHY

    async def warm(self, tenant_id: str, version: int, top_k: int) -> int:
        await self.command("warm", tenant_id, {"version": version}, lambda _: {"items": top_k})
        return top_k


class RealWorld(World):
    """A world whose pipeline is the platform's own."""

    commands = ("train", "index", "deploy", "warm")

    @cached_property
    def objects(self) -> FakeObjects:
        objects = FakeObjects()
        for tenant in self.tenants:
            objects.files["embeddings-training-data", f"training-data/{tenant}/latest/part.jsonl"] = DATA
        return objects

    def pipeline(self) -> tuple[Pipeline, ...]:
        return (TRAINING,)

    def neighbours(self) -> tuple[Engine, Neighbour]:
        return RealEngine(self), RealInference(self)

    def services(self, life: Life) -> Any:
        versions = LedgerVersions(Connection(self.dsn, name="versions"))
        parts: dict[str, Any] = {
            "settings": self.settings,
            "ml_engine": self.engine,
            "inference": self.service,
            "monitoring": FakeMonitoring(),
            "objects": self.objects,
            "versions": versions,
            "quality": FakeQuality(),
            "cpu": InlineCpu(),
            "judge": None,
        }
        return Services(**parts)

    def _settings(self) -> Settings:
        settings = super()._settings()
        inference = InferenceSettings(health_deadline=timedelta(seconds=30))
        changes = {"inference": inference, "index": IndexSettings(builder="engine"), "retry": RetrySettings(attempts=60, every=timedelta(minutes=5))}
        return settings.model_copy(update=changes)
