"""The inference service's HTTP face: deploy, health, recommend, warm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt
from starlette.types import ASGIApp

from reference import children
from reference.errors import Refused
from reference.inference.cache import Cache, connect
from reference.inference.model import Model
from reference.inference.serving import Call, Serving
from reference.inference.versions import Deployment, Versions
from reference.paths import Path, known_tenant, own_path
from reference.service import assemble, open_database
from reference.settings import ReferenceSettings
from reference.store import S3Store, Store
from schemas.tenant import TenantId


class DeployCall(BaseModel):
    """Body of `POST /api/v1/deploy`."""

    tenant_id: TenantId
    model_path: Path
    index_path: Path
    version: PositiveInt
    expected_version: NonNegativeInt | None = None
    """The version that must be live now; 0 or null: none."""
    config: dict[str, Any] = Field(default_factory=dict)


class WarmCall(BaseModel):
    """Body of `POST /api/v1/cache/warm`."""

    tenant_id: TenantId
    version: PositiveInt | None = None
    """Must be the live one; null: whichever is live."""
    top_k: Annotated[int, Field(ge=1, le=100_000)] = 1000
    force_refresh: bool = False


class Inference:
    """The service's parts, opened together."""

    def __init__(self, settings: ReferenceSettings, store: Store, cache: Cache | None = None, call: Call = children.call) -> None:
        self.database = open_database("inference", settings)
        self.versions = Versions(self.database)
        self.serving = Serving(self.versions, store, settings.data / "inference.models", call)
        self.cache = cache or connect(settings.redis_url.get_secret_value())
        self._store, self._settings = store, settings

    def app(self) -> ASGIApp:
        """The service as an ASGI application."""
        return assemble("inference", self._settings, self.database, routes(self), self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(self.database.close)
            if isinstance(self._store, S3Store):
                await stack.enter_async_context(self._store)
            stack.push_async_callback(self.cache.close)
            restoring = asyncio.create_task(self.serving.restore(await self.serving.remember()))
            yield
            restoring.cancel()
            with suppress(asyncio.CancelledError):
                await restoring

    async def served(self, tenant_id: str) -> Model:
        """The model that answers for a tenant; refused if there is none, or none yet."""
        model = self.serving.model(known_tenant(tenant_id))
        if model is not None:
            return model
        live = await self.versions.live(tenant_id)
        if live is None:
            raise Refused(404, "nothing_deployed", f"no version of {tenant_id} is deployed")
        raise _not_ready(live, self.serving)


def _not_ready(live: Deployment, serving: Serving) -> Refused:
    if serving.loading(live.tenant_id, live.version):
        return Refused(503, "loading", f"version {live.version} of {live.tenant_id} is being loaded; ask again in a second")
    return Refused(503, "broken", f"version {live.version} of {live.tenant_id} could not be loaded after a restart; deploy it again")


def routes(service: Inference) -> APIRouter:
    """The service's URLs."""
    router = APIRouter(prefix="/api/v1")
    _writes(router, service)
    _reads(router, service)
    return router


def _writes(router: APIRouter, service: Inference) -> None:
    @router.post("/deploy")
    async def deploy(body: DeployCall) -> dict[str, Any]:
        wanted = Deployment(
            tenant_id=body.tenant_id,
            version=body.version,
            model_path=own_path(body.model_path, "models", body.tenant_id),
            index_path=own_path(body.index_path, "indices", body.tenant_id),
            config=body.config,
        )
        done = await service.serving.deploy(wanted, body.expected_version)
        return {"tenant_id": done.tenant_id, "version": done.version, "previous_version": done.previous_version, "status": "live"}

    @router.post("/cache/warm")
    async def warm(body: WarmCall) -> dict[str, Any]:
        model = await service.served(body.tenant_id)
        if body.version not in (None, model.version):
            raise Refused(409, "version_conflict", f"version {model.version} of {body.tenant_id} is live, not {body.version}", live=model.version)
        items = await service.cache.warm(body.tenant_id, model.version, model.top(body.top_k), refresh=body.force_refresh)
        return {"tenant_id": body.tenant_id, "version": model.version, "items": items}


def _reads(router: APIRouter, service: Inference) -> None:
    @router.get("/health/{tenant_id}/{version}")
    async def health(tenant_id: str, version: int) -> dict[str, Any]:
        if service.serving.loading(known_tenant(tenant_id), version):
            raise Refused(503, "loading", f"version {version} of {tenant_id} is being loaded; ask again in a second")
        live = await service.versions.live(tenant_id)
        if live is None or live.version != version:
            raise Refused(404, "not_served", f"version {version} of {tenant_id} is not served", live=live.version if live else None)
        model = await service.served(tenant_id)
        return {"status": "healthy", "tenant_id": tenant_id, "version": version, "vectors": len(model.items)}

    @router.get("/deployments/{tenant_id}")
    async def deployments(tenant_id: str) -> dict[str, Any]:
        history = await service.versions.history(known_tenant(tenant_id))
        live = next((one.version for one in history if one.live), None)
        return {"tenant_id": tenant_id, "live": live, "history": [asdict(one) for one in history]}

    @router.get("/recommend/{tenant_id}/{user:path}")
    async def recommend(tenant_id: str, user: str, k: Annotated[int, Query(ge=1, le=1000)] = 10) -> dict[str, Any]:
        model = await service.served(tenant_id)
        items, fallback = await asyncio.to_thread(model.recommend, user, k)
        return {"version": model.version, "items": [item._asdict() for item in items], "fallback": fallback}
