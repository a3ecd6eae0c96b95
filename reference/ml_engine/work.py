"""How a job is done: data from S3 to files, a child process over the files, the result back to S3."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from reference import children
from reference.artifacts import INDEX_FILES, MODEL_FILES, download, upload
from reference.errors import Failed
from reference.ml_engine.jobs import Job, Jobs
from reference.settings import INDICES_BUCKET, MODELS_BUCKET
from reference.store import Object, Store

log = logging.getLogger(__name__)
Call = Callable[..., Awaitable[Any]]
SUFFIXES = (".json", ".jsonl", ".parquet")


class Workshop:
    """Works on jobs, a few at a time; on a restart it goes on with what was unfinished, under the same job ids."""

    def __init__(self, jobs: Jobs, store: Store, folder: Path, at_once: int, ended: Callable[[], None], call: Call = children.call) -> None:
        self._jobs, self._store, self._folder, self._ended, self._call = jobs, store, folder, ended, call
        self._free = asyncio.Semaphore(at_once)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def resume(self) -> None:
        """Forget half-done files, take up every job that has no outcome."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        for job in await self._jobs.unfinished():
            self.take(job)

    def take(self, job: Job) -> None:
        """Work on `job`, if nobody does yet."""
        if job.job_id not in self._tasks:
            task = self._tasks[job.job_id] = asyncio.create_task(self._do(job), name=f"job {job.job_id}")
            task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    def stop(self, job_id: str) -> None:
        """Kill what works on a job."""
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all work; the jobs stay unfinished and are resumed by the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, job: Job) -> None:
        async with self._free:
            await self._jobs.start(job.job_id)
            folder = self._folder / job.job_id
            try:
                metrics = await (self._train(job, folder) if job.kind == "train" else self._index(job, folder))
            except Failed as failed:
                log.warning("job %s of %s failed: %s", job.job_id, job.tenant_id, failed)
                await self._jobs.end(job.job_id, "failed", error=str(failed))
            except Exception as error:
                log.exception("job %s of %s failed", job.job_id, job.tenant_id)
                await self._jobs.end(job.job_id, "failed", error=f"engine_error: {type(error).__name__}; the engine's log has the details")
            else:
                await self._jobs.end(job.job_id, "completed", metrics)
            finally:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
            self._ended()

    async def _train(self, job: Job, folder: Path) -> dict[str, Any]:
        source, target = folder / "data", folder / "model"
        await self._fetch_data(job, source)
        config = job.request["model_config"]
        metrics = await self._call("reference.ml_engine.training:train", source, target, config["factors"], config["epochs"], facts(job))
        await upload(self._store, MODELS_BUCKET, job.target, target, MODEL_FILES)
        return dict(metrics)

    async def _fetch_data(self, job: Job, folder: Path) -> None:
        place = job.request["data_source"]
        objects = [one for one in await self._store.objects(place["bucket"], place["path"]) if _is_data(one)]
        if not objects:
            raise Failed("no_data", f"below {place['path']} in {place['bucket']} is no .json, .jsonl or .parquet file; upload data first")
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        few = asyncio.Semaphore(4)

        async def fetch(number: int, key: str) -> None:
            async with few:
                await self._store.fetch(place["bucket"], key, folder / f"{number:06d}-{Path(key).name[-100:]}")

        await asyncio.gather(*(fetch(number, one.key) for number, one in enumerate(objects)))

    async def _index(self, job: Job, folder: Path) -> dict[str, Any]:
        request = job.request
        await download(self._store, MODELS_BUCKET, request["model_path"], folder, ("items.npy", "users.npy", "items.ids"), job.tenant_id)
        manifest = await self._call(
            "reference.ml_engine.indexing:build", folder, request["index_type"], request["nlist"], facts(job) | {"model_path": request["model_path"]}
        )
        await upload(self._store, INDICES_BUCKET, job.target, folder, INDEX_FILES)
        kept = {name: manifest[name] for name in ("vectors", "dim", "kind", "nlist", "nprobe", "recall", "model_path")}
        return {**kept, "index_path": job.target, "manifest": f"{job.target}/manifest.json", "sha256": manifest["sha256"]["index.faiss"]}


def _is_data(one: Object) -> bool:
    """Markers (`_SUCCESS`, `.crc`) and empty objects are not data."""
    name = one.key.rsplit("/", 1)[-1]
    return one.size > 0 and name.endswith(SUFFIXES) and not name.startswith(("_", "."))


def facts(job: Job) -> dict[str, Any]:
    """What a manifest says about where it comes from."""
    return {"tenant_id": job.tenant_id, "job_id": job.job_id, **{name: job.context.get(name) for name in ("run_id", "idempotency_key")}}


def run_of(key: str | None) -> str | None:
    """The run that a key `{run}:{stage}:{round}` speaks of."""
    try:
        return str(UUID((key or "").partition(":")[0]))
    except ValueError:
        return None
