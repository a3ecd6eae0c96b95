"""The inference service as the pipeline speaks of it: deploy a version, ask after its health, warm its cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, Field, NonNegativeInt

from streams.clients.answers import Problem
from streams.clients.http import Neighbour, open_neighbour
from streams.settings import InferenceSettings
from streams.stage import GiveUp


class Conflict(NamedTuple):
    """The deploy was not accepted: another version is live than the one expected. `live` None: an earlier call under this key said something else."""

    live: int | None


def taken(tenant_id: str, version: int) -> GiveUp:
    """The end of a deploy whose number the service has given to other files."""
    return GiveUp(
        f"the inference service has other files under version {version} of {tenant_id}: was the ledger lost, or does another one deploy there? "
        "Once that is clear, `tidemill retry` the run, which takes another number",
        code="version_taken",
    )


class Health(StrEnum):
    """How one version of one tenant is."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"  # the service does not serve this version


class Inference(Protocol):
    """Serves recommendations from one version a tenant."""

    async def deploy(
        self, *, tenant_id: str, version: int, model_path: str, index_path: str, expected_version: int, config: dict[str, Any], key: str | None = None
    ) -> Conflict | None:
        """Make `version` the live one if `expected_version` (0: none) is live now. Doing twice is like doing once.

        `GiveUp` `version_taken` when the number stands for other files.
        """
        ...

    async def health(self, tenant_id: str, version: int) -> Health:
        """Whether the service answers from this version."""
        ...

    async def warm(self, tenant_id: str, version: int, top_k: int) -> int:
        """Put the most wanted items into the cache; how many there are."""
        ...


class _Deploy(BaseModel):
    tenant_id: str
    model_path: str
    index_path: str
    version: int
    expected_version: int
    config: dict[str, Any]


class _Deployed(BaseModel):
    pass


class _Refused(Problem):
    status: ClassVar[int] = 422
    live: NonNegativeInt | None = None


class _Conflict(_Refused):
    status = 409


class _Warm(BaseModel):
    tenant_id: str
    version: int
    top_k: int
    force_refresh: bool = True


class _Warmed(BaseModel):
    items: NonNegativeInt = Field(le=10_000_000)


class HttpInference:
    """The inference service over HTTP."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    async def deploy(
        self, *, tenant_id: str, version: int, model_path: str, index_path: str, expected_version: int, config: dict[str, Any], key: str | None = None
    ) -> Conflict | None:
        body = _Deploy(
            tenant_id=tenant_id, model_path=model_path, index_path=index_path, version=version, expected_version=expected_version, config=config
        )
        answers: dict[int, type[BaseModel]] = {200: _Deployed, 201: _Deployed, 202: _Deployed, 409: _Conflict, 422: _Refused}
        reply = await self._neighbour.call("POST", "/api/v1/deploy", answers, body=body, key=key)
        if not isinstance(reply, _Refused):
            return None
        if reply.code == "version_conflict":
            return Conflict(reply.live or 0)
        if reply.code == "key_reused":
            return Conflict(None)
        if reply.code == "version_taken":
            raise taken(tenant_id, version)
        raise self._neighbour.refusal(reply.status, reply)

    async def health(self, tenant_id: str, version: int) -> Health:
        answers: dict[int, type[BaseModel]] = {200: _Deployed, 404: Problem, 503: _Refused}
        reply = await self._neighbour.call("GET", f"/api/v1/health/{tenant_id}/{version}", answers)
        if isinstance(reply, _Refused):
            return Health.UNHEALTHY
        return Health.UNKNOWN if isinstance(reply, Problem) else Health.HEALTHY

    async def warm(self, tenant_id: str, version: int, top_k: int) -> int:
        body = _Warm(tenant_id=tenant_id, version=version, top_k=top_k)
        return (await self._neighbour.post("/api/v1/cache/warm", body, _Warmed)).items


@asynccontextmanager
async def open_inference(settings: InferenceSettings) -> AsyncIterator[Inference]:
    async with open_neighbour("inference", settings) as neighbour:
        yield HttpInference(neighbour)
