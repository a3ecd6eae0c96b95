"""Reads the neighbours' own records of what they accepted, the third witness of `tidemill prove`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from streams.settings import Settings

LONGEST = 256 << 20
"""Bytes of one tenant's journal."""
OWNERS = {
    "/api/v1/train": "ml_engine",
    "/api/v1/index/": "ml_engine",
    "/api/v1/jobs/": "ml_engine",
    "/api/v1/deploy": "inference",
    "/api/v1/cache/": "inference",
    "/api/v1/alerts": "monitoring",
}


class NeighbourAway(Exception):
    """A neighbour that cannot be asked, or whose journal cannot be read: which, and what to do."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name = name


class Accepted(BaseModel):
    """One accepted call, as the neighbour keeps it."""

    idempotency_key: Annotated[str, StringConstraints(max_length=1000)] | None
    method: str
    path: str
    tenant_id: str | None
    at: str
    status: int


Journals = dict[str, list[Accepted] | None]
"""Neighbour -> what it accepted of one tenant; None: it keeps no journal."""
_LIST = TypeAdapter(list[Accepted])


def owner(path: str) -> str | None:
    """Whose command this is."""
    return next((name for start, name in OWNERS.items() if path.startswith(start)), None)


class Neighbours:
    """All three, asked at the same time."""

    def __init__(self, http: httpx.AsyncClient, urls: dict[str, str]) -> None:
        self._http, self._urls = http, urls

    async def journals(self, tenant_id: str) -> Journals:
        found = await asyncio.gather(*(self._journal(name, url, tenant_id) for name, url in self._urls.items()))
        return dict(zip(self._urls, found, strict=True))

    async def _journal(self, name: str, url: str, tenant_id: str) -> list[Accepted] | None:
        try:
            async with self._http.stream("GET", f"{url.rstrip('/')}/journal", params={"tenant": tenant_id}) as response:
                if response.status_code in (404, 405, 501):
                    return None
                if response.status_code != 200:
                    raise NeighbourAway(name, f"answers {response.status_code} when asked for its journal; look at its log")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > LONGEST:
                        raise NeighbourAway(name, f"has more than {LONGEST >> 20} MiB of journal of {tenant_id}, which is more than can be held")
        except (httpx.HTTPError, OSError) as error:
            raise NeighbourAway(name, f"does not answer ({type(error).__name__}); is it running, and is the setting {name}.url right?") from error
        return _read(name, bytes(body))


def _read(name: str, body: bytes) -> list[Accepted]:
    try:
        return [row for row in _LIST.validate_json(body) if row.status < 300]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NeighbourAway(name, f"answers with a journal that cannot be read ({where}: {first['msg']}); look at its version") from None


@asynccontextmanager
async def open_neighbours(settings: Settings) -> AsyncIterator[Neighbours]:
    urls = {"ml_engine": settings.ml_engine.url, "inference": settings.inference.url, "monitoring": settings.monitoring.url}
    async with httpx.AsyncClient(timeout=30, trust_env=False, follow_redirects=False) as http:
        yield Neighbours(http, urls)
