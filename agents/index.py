"""Third stage of training: the model's item vectors become a FAISS index in S3, built by a child process here or, by setting, by the ML Engine."""

import asyncio
from datetime import timedelta
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pydantic import ValidationError

from agents import index_build
from agents.artefacts import MANIFEST, Manifest, check_recall, read_manifest
from agents.train import FINISHED, UNFINISHED, job_of
from schemas.training import IndexBuilt, IndexStarted, TrainingCompleted
from streams.clients.paths import own_path
from streams.cpu import ChildDied, ChildFailed
from streams.disk import disk_full, room_in, scratch
from streams.faultpoints import point
from streams.services import Services
from streams.stage import GiveUp, TryAgain, stage
from streams.step import Step, current

INPUTS = ("items.npy", "users.npy", "items.ids")
LONGEST_BUILD = timedelta(hours=1)
MORE_MEMORY = "give it more with TIDEMILL_RUNTIME__CHILD_MEMORY or set TIDEMILL_INDEX__BUILDER=engine"


@stage(cpu=True, timeout=LONGEST_BUILD + timedelta(minutes=30))
async def index(event: TrainingCompleted, use: Services) -> IndexBuilt | IndexStarted:
    """Build the index of the trained model. Every try writes to a folder of its own, so a half-done one is never served."""
    step = current.get()
    assert step is not None, "the executor sets the step in hand"
    if event.model_path is None:
        raise GiveUp(f"the ML Engine says that job {event.job_id} is completed, but not where the model lies; look at its log", code="no_model_path")
    model_path = own_path(event.model_path, event.tenant_id, root="models")
    target = f"indices/{event.tenant_id}/{step.run_id}/{step.round}-{step.fence}"
    if use.settings.index.builder == "engine":
        target = f"indices/{event.tenant_id}/{step.run_id}/{step.round}/"  # the same body under the same key, whoever sends it
        job = await use.ml_engine.build_index(tenant_id=event.tenant_id, model_path=model_path, output_path=target)
        return event.then(IndexStarted, job_id=job, model_path=model_path)
    with room_in(gettempdir()), await asyncio.to_thread(scratch) as folder:
        built = await _build(event, model_path, Path(folder), step, use)
        await _upload(Path(folder), target, use)
    manifest = f"{target}/{MANIFEST}"
    return IndexBuilt(tenant_id=event.tenant_id, run_id=event.run_id, index_path=target, model_path=model_path, manifest=manifest, **built)


async def _build(event: TrainingCompleted, model_path: str, folder: Path, step: Step, use: Services) -> dict[str, Any]:
    """Fetch, check and index the vectors; the facts about the index."""
    bucket, wanted = use.settings.s3.models_bucket, use.settings.index
    manifest = await read_manifest(Manifest, bucket, model_path, event.tenant_id, step.run_id, use)
    for name in INPUTS:
        if name not in manifest.sha256:
            raise GiveUp(f"the manifest of {model_path} does not name {name}; the ML Engine must write it", code="bad_manifest")
        await use.objects.download(bucket, f"{model_path}/{name}", folder / name, sha256=manifest.sha256[name])
    facts = {"tenant_id": event.tenant_id, "run_id": str(step.run_id), "model_path": model_path}
    built = await _in_child(use, str(folder), manifest.dim, wanted.flat_below, wanted.recall_target, facts)
    check_recall(event.tenant_id, built["recall"], use)
    return built


async def _in_child(use: Services, *args: Any) -> dict[str, Any]:
    try:
        return await use.cpu.run(index_build.build, *args, timeout=LONGEST_BUILD.total_seconds())
    except ChildFailed as failed:
        if failed.code == "disk_full":
            raise disk_full(gettempdir()) from failed
        advice = MORE_MEMORY if failed.code == "out_of_memory" else "find out what the ML Engine wrote"
        raise GiveUp(f"the index could not be built: {failed.text}; {advice}, then `tidemill retry` the run", code=failed.code) from failed
    except ChildDied as died:
        raise TryAgain(f"the process that built the index died ({died}); look at the memory of the machine", code="index_child_died") from died
    except TimeoutError as late:
        raise TryAgain(f"{late}; set TIDEMILL_INDEX__BUILDER=engine for tenants this large", code="index_too_slow") from late


async def _upload(folder: Path, target: str, use: Services) -> None:
    """The manifest goes last: who sees it sees a whole index."""
    for name, after in (("index.faiss", "index.uploading"), ("items.ids", "index.uploaded"), (MANIFEST, "index.manifest")):
        await use.objects.upload(use.settings.s3.indices_bucket, f"{target}/{name}", folder / name)
        point(after)


async def cancel_build(started: IndexStarted, use: Services) -> None:
    """The run does not want the index any more."""
    await use.ml_engine.cancel(started.job_id)


@index.watch(engine="ml_engine", every=lambda s: s.ml_engine.poll_every, deadline=lambda s: s.ml_engine.deadline, cancel=cancel_build)
async def ask(started: IndexStarted, use: Services) -> IndexBuilt | None:
    """Ask after the engine's index job, in case it cannot call back."""
    job = await job_of(started.tenant_id, started.job_id, use)
    if job.status in UNFINISHED:
        return None
    if (end := FINISHED[job.status]) != "completed":
        reason = (job.error or "no reason given")[:500]
        sentence = f"the ML Engine ended index job {started.job_id} as {end}: {reason}; see its log, then `tidemill retry`"
        raise GiveUp(sentence, code=f"index_{end}", again=end == "failed")  # who cancelled it does not want another
    try:
        return IndexBuilt.model_validate({**job.result, "tenant_id": started.tenant_id, "run_id": started.run_id, "job_id": started.job_id})
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise TryAgain(f"the result of index job {started.job_id} is wrong ({what}); look at the ML Engine", code="ml_engine_lied") from None
