"""The ML Engine's HTTP face: train, build an index, ask after a job, cancel it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Request
from pydantic import BaseModel, Field, PositiveInt
from starlette.types import ASGIApp

from reference import children
from reference.errors import Refused
from reference.ml_engine.callbacks import Callbacks, Producer, connect
from reference.ml_engine.jobs import TERMINAL, Job, Jobs
from reference.ml_engine.work import Call, Workshop, run_of
from reference.paths import Path, own_path
from reference.service import EffectId, IdempotencyKey, assemble, open_database
from reference.settings import TRAINING_BUCKET, ReferenceSettings
from reference.store import S3Store, Store
from schemas.tenant import TenantId
from schemas.training import TrainingConfig

Open = Callable[[], Awaitable[Producer]]
Traceparent = Annotated[str | None, Header(pattern=r"^[0-9a-f-]{55}$")]


class DataSource(BaseModel):
    """Where the interactions lie."""

    type: Literal["s3"] = "s3"
    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9.-]+$")] = TRAINING_BUCKET
    path: Path


class TrainCall(BaseModel):
    """Body of `POST /api/v1/train`."""

    tenant_id: TenantId
    data_source: DataSource
    training_config: Annotated[TrainingConfig, Field(alias="model_config")] = TrainingConfig()
    output_path: Path
    run_id: str | None = None


class IndexCall(BaseModel):
    """Body of `POST /api/v1/index/build`."""

    tenant_id: TenantId
    model_path: Path
    index_type: Literal["IVF", "Flat"] = "IVF"
    nlist: PositiveInt | None = None
    output_path: Path
    run_id: str | None = None


class Engine:
    """The engine's parts, opened together."""

    def __init__(self, settings: ReferenceSettings, store: Store, open_producer: Open | None = None, call: Call = children.call) -> None:
        self.database = open_database("ml_engine", settings)
        self.jobs = Jobs(self.database)
        self.callbacks = Callbacks(self.jobs, open_producer or (lambda: connect(settings.kafka)))
        self.workshop = Workshop(self.jobs, store, settings.data / "ml_engine.work", settings.jobs, self.callbacks.wake, call)
        self._store, self._settings = store, settings

    def app(self) -> ASGIApp:
        """The engine as an ASGI application."""
        return assemble("ml_engine", self._settings, self.database, routes(self), self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(self.database.close)
            if isinstance(self._store, S3Store):
                await stack.enter_async_context(self._store)
            if self._settings.callbacks:
                await stack.enter_async_context(running(self.callbacks.run()))
            stack.push_async_callback(self.workshop.close)
            await self.workshop.resume()
            yield

    async def take(self, job: Job) -> Job:
        """Take a job on; the one under the same id may be done already, then that is the answer."""
        await self.jobs.add(job)
        kept = await self.jobs.get(job.job_id) or job
        if kept.status not in TERMINAL:
            self.workshop.take(kept)
        return kept

    async def cancel(self, job: Job) -> Job:
        """End a job as cancelled, if it has not ended yet."""
        if await self.jobs.end(job.job_id, "cancelled", error="cancelled on request"):
            self.workshop.stop(job.job_id)
            self.callbacks.wake()
        return await self.jobs.get(job.job_id) or job


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """`work` as a background task for the length of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def routes(engine: Engine) -> APIRouter:
    """The engine's URLs."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/train", status_code=202)
    async def train(body: TrainCall, effect: EffectId, key: IdempotencyKey, traceparent: Traceparent = None) -> dict[str, str]:
        own_path(body.data_source.path, "training-data", body.tenant_id)
        target = f"{own_path(body.output_path, 'models', body.tenant_id)}/{effect}"
        request = {"data_source": body.data_source.model_dump(), "model_config": body.training_config.model_dump()}
        context = _context(key, body.run_id, traceparent)
        job = Job(job_id=effect, kind="train", tenant_id=body.tenant_id, target=target, request=request, context=context)
        await engine.take(job)
        return {"job_id": effect}

    @router.post("/index/build", status_code=202)
    async def build_index(body: IndexCall, effect: EffectId, key: IdempotencyKey, traceparent: Traceparent = None) -> dict[str, str]:
        model = own_path(body.model_path, "models", body.tenant_id)
        target = f"{own_path(body.output_path, 'indices', body.tenant_id)}/{effect}"
        request = {"model_path": model, "index_type": body.index_type, "nlist": body.nlist}
        context = _context(key, body.run_id, traceparent)
        job = Job(job_id=effect, kind="index", tenant_id=body.tenant_id, target=target, request=request, context=context)
        await engine.take(job)
        return {"job_id": effect, "index_path": target}

    @router.get("/jobs/{job_id}/status")
    async def status(job_id: str) -> dict[str, Any]:
        return describe(await _known(engine, job_id))

    @router.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        job = await _known(engine, job_id)
        request.state.tenant_id = job.tenant_id  # the journal cannot know it from the body
        return describe(await engine.cancel(job))

    return router


async def _known(engine: Engine, job_id: str) -> Job:
    job = await engine.jobs.get(job_id)
    if job is None:
        raise Refused(404, "unknown_job", "the engine has no such job")
    return job


def _context(key: str | None, run_id: str | None, traceparent: str | None) -> dict[str, str]:
    context = {"idempotency_key": key, "run_id": run_id or run_of(key), "traceparent": traceparent}
    return {name: value for name, value in context.items() if value is not None}


def describe(job: Job) -> dict[str, Any]:
    """A job as its status call tells it; `result` of an index job is what `index.built` says."""
    told: dict[str, Any] = {"job_id": job.job_id, "tenant_id": job.tenant_id, "kind": job.kind, "status": job.status}
    if job.error is not None:
        told["error"] = job.error
    if job.status == "completed":
        told |= {"model_path": job.target, "metrics": job.metrics} if job.kind == "train" else {"index_path": job.target, "result": job.metrics}
    return told
