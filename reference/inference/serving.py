"""Taking a version live: fetch, check, read once in a child, load, switch; and all of it again after a restart."""

import asyncio
import logging
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from reference import children
from reference.artifacts import INDEX_FILES, check, download
from reference.errors import Failed, Refused
from reference.inference.model import Model, load
from reference.inference.versions import Deployment, Versions
from reference.settings import INDICES_BUCKET, MODELS_BUCKET
from reference.store import Store

log = logging.getLogger(__name__)
USER_FILES = ("users.npy", "users.ids", "seen.parquet")
Call = Callable[..., Awaitable[Any]]


class Serving:
    """What is served now, by tenant."""

    def __init__(self, versions: Versions, store: Store, folder: Path, call: Call = children.call) -> None:
        self._versions, self._store, self._folder, self._call = versions, store, folder, call
        self._models: dict[str, Model] = {}
        self._loading: set[tuple[str, int]] = set()
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def model(self, tenant_id: str) -> Model | None:
        return self._models.get(tenant_id)

    def loading(self, tenant_id: str, version: int) -> bool:
        return (tenant_id, version) in self._loading

    async def deploy(self, wanted: Deployment, expected: int | None) -> Deployment:
        """Serve `wanted` from now on; deploying what is live already is a no-op, and whatever fails leaves the live version alone."""
        async with self._one_at_a_time[wanted.tenant_id]:
            current = await self._versions.admit(wanted, expected)
            if current is not None and (served := self.model(wanted.tenant_id)) is not None and served.version == current.version:
                return current
            model = await self._open(wanted)
            done = await self._versions.switch(wanted, expected)
            self._models[wanted.tenant_id] = model
            await self._forget_others(done)
            return done

    async def remember(self) -> list[Deployment]:
        """What was live when the process ended: it counts as loading from the first request on."""
        live = await self._versions.all_live()
        self._loading |= {(one.tenant_id, one.version) for one in live}
        return live

    async def restore(self, live: list[Deployment]) -> None:
        """Serve these again."""
        for one in live:
            async with self._one_at_a_time[one.tenant_id]:
                if one.tenant_id not in self._models:
                    await self._restore(one)

    async def _restore(self, one: Deployment) -> None:
        try:
            self._models[one.tenant_id] = await self._open(one)
        except (Refused, Failed, OSError) as error:
            log.error("version %d of %s cannot be served again: %s; deploy it again", one.version, one.tenant_id, error)

    async def _open(self, wanted: Deployment) -> Model:
        key = (wanted.tenant_id, wanted.version)
        self._loading.add(key)
        try:
            return await self._load(wanted, self._folder / wanted.tenant_id / _folder_name(wanted))
        except Failed as failed:
            raise Refused(503 if failed.code == "store_unavailable" else 422, failed.code, failed.sentence) from failed
        finally:
            self._loading.discard(key)

    async def _load(self, wanted: Deployment, folder: Path) -> Model:
        model = await self._get(MODELS_BUCKET, wanted.model_path, folder / "model", USER_FILES, wanted.tenant_id)
        index = await self._get(INDICES_BUCKET, wanted.index_path, folder / "index", INDEX_FILES, wanted.tenant_id)
        if index.get("model_path", wanted.model_path).rstrip("/") != wanted.model_path or index.get("dim") != model.get("dim"):
            raise Failed("index_mismatch", f"the index of {wanted.tenant_id} was built from another model than {wanted.model_path}")
        if not isinstance(index["dim"], int):
            raise Failed("bad_manifest", "the manifest's dim is not a number")
        await self._call("reference.inference.unpack:unpack", folder / "model", folder / "index", index["dim"])
        probes = wanted.config.get("nprobe") or index.get("nprobe") or 1
        return await asyncio.to_thread(load, wanted.version, folder / "model", folder / "index", int(probes))

    async def _get(self, bucket: str, prefix: str, folder: Path, files: tuple[str, ...], tenant_id: str) -> dict[str, Any]:
        """The manifest of one part: from the disk if all is there and right, else from the store."""
        try:
            return await asyncio.to_thread(check, folder, files, tenant_id)
        except (Failed, OSError):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return await download(self._store, bucket, prefix, folder, files, tenant_id)

    async def _forget_others(self, live: Deployment) -> None:
        """Free the disk of what is no longer served; a rollback fetches it again."""
        folder = self._folder / live.tenant_id
        for old in await asyncio.to_thread(lambda: [one for one in folder.iterdir() if one.name != _folder_name(live)]):
            await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)


def _folder_name(one: Deployment) -> str:
    """Of the files on disk: a number that was refused once may come back with other files."""
    return f"{one.version}-{sha256(f'{one.model_path} {one.index_path}'.encode()).hexdigest()[:16]}"
