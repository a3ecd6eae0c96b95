"""The ML Engine as the pipeline speaks of it: train, build an index, ask after a job, cancel one."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from schemas.training import Path, TrainingConfig
from streams.clients.answers import Problem
from streams.clients.http import Neighbour, open_neighbour
from streams.settings import MLEngineSettings
from streams.stage import TryAgain

JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._:-]{0,199}$")]
"""Job ids travel in URLs and keys, so they are plain."""

Facts = Annotated[dict[str, Any], BeforeValidator(lambda said: {} if said is None else said)]
"""Null until there are some, as most engines write it."""


class JobStatus(BaseModel):
    """What the engine says of a job; `status` is kept as it came, the watch maps it. An engine need not say whose job it is."""

    job_id: str | None = None
    tenant_id: str | None = None
    status: Annotated[str, StringConstraints(max_length=100)]
    model_path: Path | None = None
    metrics: Facts = Field(default_factory=dict)
    result: Facts = Field(default_factory=dict)
    """Of a finished index job: what its `index.built` says."""
    error: str | None = None


class MLEngine(Protocol):
    """Trains models and, by setting, builds indices."""

    async def train(self, *, tenant_id: str, bucket: str, path: str, config: TrainingConfig | None, output_path: str) -> str:
        """Start a training job on the data under `path`; the id of the job, the same one however often this round asks."""
        ...

    async def build_index(self, *, tenant_id: str, model_path: str, output_path: str, nlist: int | None = None) -> str:
        """Start a job that builds the index of a model; `nlist` None leaves it to the engine."""
        ...

    async def job(self, job_id: str) -> JobStatus | None:
        """What is known of a job; None: the engine says (404 with a `code`) that it has never heard of it, or forgot it."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Ask to stop a job; one that is over or forgotten is as good as stopped."""
        ...


class _Data(BaseModel):
    type: str = "s3"
    bucket: str
    path: str


class _Train(BaseModel):
    tenant_id: str
    data_source: _Data
    training_config: TrainingConfig = Field(serialization_alias="model_config")
    output_path: str


class _BuildIndex(BaseModel):
    tenant_id: str
    model_path: str
    index_type: str = "IVF"
    nlist: int | None = None
    output_path: str


class _Nothing(BaseModel):
    pass


class _Started(BaseModel):
    job_id: JobId


class HttpMLEngine:
    """The ML Engine over HTTP."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    async def train(self, *, tenant_id: str, bucket: str, path: str, config: TrainingConfig | None, output_path: str) -> str:
        data = _Data(bucket=bucket, path=path)
        body = _Train(tenant_id=tenant_id, data_source=data, training_config=config or TrainingConfig(), output_path=output_path)
        return (await self._neighbour.post("/api/v1/train", body, _Started)).job_id

    async def build_index(self, *, tenant_id: str, model_path: str, output_path: str, nlist: int | None = None) -> str:
        body = _BuildIndex(tenant_id=tenant_id, model_path=model_path, nlist=nlist, output_path=output_path)
        return (await self._neighbour.post("/api/v1/index/build", body, _Started)).job_id

    async def job(self, job_id: str) -> JobStatus | None:
        reply = await self._neighbour.call("GET", f"/api/v1/jobs/{_plain(job_id)}/status", {200: JobStatus, 404: Problem})
        if isinstance(reply, JobStatus):
            return reply
        assert isinstance(reply, Problem)
        if not reply.code:  # as gateways and frameworks answer what is no route of theirs
            raise TryAgain(
                f"ml_engine answered the question after job {job_id} with 404 and no code, which need not mean the job; "
                "look whether TIDEMILL_ML_ENGINE__URL and what stands before it still lead to the engine",
                code="ml_engine_not_found",
            )
        return None

    async def cancel(self, job_id: str) -> None:
        answers: dict[int, type[BaseModel]] = {200: _Nothing, 202: _Nothing, 404: Problem, 409: Problem}
        await self._neighbour.call("POST", f"/api/v1/jobs/{_plain(job_id)}/cancel", answers, body=_Nothing(), key=f"cancel:{job_id}")


def _plain(job_id: str) -> str:
    """The id as one segment of a URL. Ids that we asked for are plain; one that came by Kafka may be anything."""
    return quote(job_id, safe="") if not re.fullmatch(r"\.+", job_id) else "-"


@asynccontextmanager
async def open_ml_engine(settings: MLEngineSettings) -> AsyncIterator[MLEngine]:
    async with open_neighbour("ml_engine", settings) as neighbour:
        yield HttpMLEngine(neighbour)
