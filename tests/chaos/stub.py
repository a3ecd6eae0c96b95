"""The reference neighbours with light work: `python -m tests.chaos.stub ml_engine|inference`.

Contracts, journal, faults and callbacks are those of `reference/`. Only the work is light: a job ends after a random while with a tiny
artefact in S3, so that hundreds of runs a minute pass through all stages. Every choice is made from the job's id: asked again, it is the same.
"""

import asyncio
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from reference import service
from reference.inference.model import Item
from reference.inference.service import Inference
from reference.inference.versions import Deployment, Versions
from reference.ml_engine.jobs import Job, Jobs
from reference.ml_engine.service import Engine
from reference.settings import INDICES_BUCKET, ReferenceSettings
from reference.store import S3Store

UNTOLD = 0.10
"""Of the jobs: nobody calls back, only asking finds out."""
FAILED = 0.03
"""Of the training jobs: they fail, and the next round has to do better."""
SLOWEST = 3.0
"""Seconds of a job."""
SLOWEST_ANSWER = 1.5
"""Seconds before a command is worked on."""


class LightWorkshop:
    """In the place of the engine's workshop: jobs end after a while, most of them well."""

    def __init__(self, jobs: Jobs, store: S3Store, folder: Path, ended: Callable[[], None]) -> None:
        self._jobs, self._store, self._folder, self._ended = jobs, store, folder, ended
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def resume(self) -> None:
        for job in await self._jobs.unfinished():
            self.take(job)

    def take(self, job: Job) -> None:
        if job.job_id not in self._tasks:
            task = self._tasks[job.job_id] = asyncio.create_task(self._do(job))
            task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    def stop(self, job_id: str) -> None:
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, job: Job) -> None:
        fate = random.Random(job.job_id)
        await self._jobs.start(job.job_id)
        await asyncio.sleep(0 if fate.random() < 0.2 else fate.random() ** 2 * SLOWEST)
        if job.kind == "train" and fate.random() < FAILED:
            await self._jobs.end(job.job_id, "failed", error="chaos: this job was to fail")
        else:
            await self._jobs.end(job.job_id, "completed", await self._index(job) if job.kind == "index" else {"loss": fate.random()})
        if fate.random() < UNTOLD:
            await self._jobs.told(job.job_id)
        self._ended()

    async def _index(self, job: Job) -> dict[str, Any]:
        """A tiny index, its manifest last."""
        content = f"index of {job.tenant_id} by {job.job_id}\n" * 20
        digest = sha256(content.encode()).hexdigest()
        facts = {"vectors": 20, "dim": 8, "kind": "Flat", "nlist": 0, "nprobe": 0, "recall": 1.0, "model_path": job.request["model_path"]}
        manifest = json.dumps({"tenant_id": job.tenant_id, "metric": "ip", "sha256": {"index.faiss": digest}, **facts})
        for name, text in (("index.faiss", content), ("manifest.json", manifest)):
            await self._put(f"{job.target}/{name}", text)
        return {**facts, "index_path": job.target, "manifest": f"{job.target}/manifest.json", "sha256": digest}

    async def _put(self, key: str, text: str) -> None:
        file = self._folder / sha256(key.encode()).hexdigest()
        file.write_text(text)
        await self._store.put(INDICES_BUCKET, key, file)
        file.unlink()


@dataclass(frozen=True)
class LightModel:
    """In the place of a loaded index."""

    version: int

    @property
    def items(self) -> list[str]:
        return ["i1", "i2", "i3"]

    def top(self, k: int) -> list[Item]:
        return [Item(name, 1.0) for name in self.items[:k]]


class LightServing:
    """In the place of the service's models: a version is live as soon as the compare-and-set says so."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._models: dict[str, LightModel] = {}

    def model(self, tenant_id: str) -> LightModel | None:
        return self._models.get(tenant_id)

    def loading(self, tenant_id: str, version: int) -> bool:
        return False

    async def deploy(self, wanted: Deployment, expected: int | None) -> Deployment:
        done = await self._versions.switch(wanted, expected)
        self._models[wanted.tenant_id] = LightModel(done.version)
        return done

    async def remember(self) -> list[Deployment]:
        return await self._versions.all_live()

    async def restore(self, live: list[Deployment]) -> None:
        for one in live:
            self._models.setdefault(one.tenant_id, LightModel(one.version))


class Slow:
    """ASGI: every command takes a random while, so that steps are in hand when their worker dies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith("/api/"):
            await asyncio.sleep(random.random() ** 2 * SLOWEST_ANSWER)
        await self._app(scope, receive, send)


def main(name: str) -> None:
    settings = ReferenceSettings()
    store = S3Store(settings)
    if name == "ml_engine":
        engine = Engine(settings, store)
        folder = settings.data / "drafts"
        folder.mkdir(parents=True, exist_ok=True)
        engine.workshop = LightWorkshop(engine.jobs, store, folder, engine.callbacks.wake)  # type: ignore[assignment]  # same calls, less work
        service.run(Slow(engine.app()), settings)
    else:
        inference = Inference(settings, store)
        inference.serving = LightServing(inference.versions)  # type: ignore[assignment]
        service.run(Slow(inference.app()), settings)


if __name__ == "__main__":
    main(sys.argv[1])
