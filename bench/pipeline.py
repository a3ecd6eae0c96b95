"""The six stages as a Tidemill pipeline: each makes one call through the client that ships, and nothing else.

A worker carries it by `TIDEMILL_PIPELINES=bench.pipeline:PIPELINES` and `TIDEMILL_SERVICES=bench.pipeline:open_services`.
`wait` is a stage like the others (one look at a job that is done), so that everybody who is measured does the same.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel

from schemas.event import Event
from schemas.training import CacheWarmed, IndexBuilt, ModelDeployed, TrainingCompleted, TrainingRequested, TrainingValidated
from streams.clients.http import Neighbour, open_neighbour
from streams.clients.versions import Versions
from streams.cpu import ChildProcesses
from streams.settings import Settings
from streams.stage import Pipeline, stage

STAGES = ("validate", "train", "wait", "index", "deploy", "warm")


class Asked(BaseModel):
    tenant_id: str


class Answered(BaseModel):
    job_id: str
    status: str


class Trained(Event):
    """The engine took the job; unlike `TrainingStarted` it lets the run go on, to the stage that looks after the job."""

    topic: ClassVar[str] = "training.started"
    job_id: str


@dataclass(frozen=True, slots=True)
class BenchServices:
    """What the stages use: the stub, through the shipped client."""

    stub: Neighbour
    cpu: ChildProcesses

    async def post(self, stage: str, event: Event) -> Answered:
        return await self.stub.post(f"/stage/{stage}/{event.tenant_id}", Asked(tenant_id=event.tenant_id), Answered)

    async def get(self, stage: str, event: Event) -> BaseModel:
        return await self.stub.call("GET", f"/stage/{stage}/{event.tenant_id}", {200: Answered})


@asynccontextmanager
async def open_services(settings: Settings, versions: Versions, quality: object) -> AsyncIterator[BenchServices]:
    """The stub is where the setting `ml_engine.url` says."""
    async with open_neighbour("stub", settings.ml_engine) as stub, ChildProcesses(1, memory=1 << 30) as cpu:
        yield BenchServices(stub, cpu)


@stage()
async def validate(event: TrainingRequested, use: BenchServices) -> TrainingValidated:
    """Ask whether the data is there."""
    await use.get("validate", event)
    return event.then(TrainingValidated, bucket="embeddings-training-data", prefix="training-data/latest/", files=3, bytes=4096, fingerprint="0" * 64)


@stage()
async def train(event: TrainingValidated, use: BenchServices) -> Trained:
    """Start the job."""
    answer = await use.post("train", event)
    return event.then(Trained, job_id=answer.job_id)


@stage()
async def wait(event: Trained, use: BenchServices) -> TrainingCompleted:
    """Look after the job, which is done."""
    await use.get("wait", event)
    return event.then(TrainingCompleted, job_id=event.job_id, status="completed", model_path="models/model.npz")


@stage()
async def index(event: TrainingCompleted, use: BenchServices) -> IndexBuilt:
    """Have the index built."""
    await use.post("index", event)
    return event.then(IndexBuilt, index_path="indices/latest", vectors=1000, dim=32, kind="Flat", sha256="0" * 64)


@stage()
async def deploy(event: IndexBuilt, use: BenchServices) -> ModelDeployed:
    """Have it served."""
    await use.post("deploy", event)
    return event.then(ModelDeployed, version=1)


@stage()
async def warm(event: ModelDeployed, use: BenchServices) -> CacheWarmed:
    """Warm the cache."""
    await use.post("warm", event)
    return event.then(CacheWarmed, items=1000)


PIPELINES = (Pipeline("training", (validate, train, wait, index, deploy, warm), version="bench-1"),)
