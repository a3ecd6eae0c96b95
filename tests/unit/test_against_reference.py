"""The stages and clients against the reference neighbours themselves, in one process: both sides of every contract."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from agents import deploy, index, train, validate, warm
from reference.inference.service import Inference
from reference.ml_engine.service import Engine
from reference.settings import ReferenceSettings
from schemas.training import CacheWarmed, IndexBuilt, IndexStarted, ModelDeployed, TrainingCompleted, TrainingStarted, TrainingValidated
from streams.clients.http import Neighbour
from streams.clients.inference import Conflict, Health, HttpInference
from streams.clients.ml_engine import HttpMLEngine
from streams.services import Services
from streams.settings import InferenceSettings, MLEngineSettings
from streams.stage import GiveUp, Stage
from tests.fakes import FakeObjects, FakeVersions, a_step, in_hand
from tests.unit.stages import RUN, a_house, requested
from tests.unit.test_reference_services import FakeCache, FakeProducer, FakeStore, inline, kafka, serving, settings, store  # noqa: F401  # fixtures

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(60)]


class Asgi(httpx.ASGITransport):
    """Reads `target`, as httpx's own transport does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(raw_path=request.extensions["target"])
        return await super().handle_async_request(request)


@pytest.fixture(params=["local", "engine"])
async def use(request: Any, settings: ReferenceSettings, store: FakeStore, kafka: FakeProducer, tmp_path: Path) -> AsyncIterator[Services]:  # noqa: F811
    """Services whose neighbours are the reference ones, and whose object store is theirs."""
    objects = FakeObjects()
    objects.files = store.data
    del objects.files["embeddings-training-data", "training-data/acme/latest/part-9.json"]  # an empty file
    async with AsyncExitStack() as stack:
        engine, served = Engine(settings, store, kafka.open, inline).app(), Inference(settings, store, FakeCache(), inline).app()
        for each in (engine, served):
            await stack.enter_async_context(serving(each))
        yield a_house(
            builder=request.param,
            objects=objects,
            ml_engine=HttpMLEngine(Neighbour("ml_engine", MLEngineSettings(), Asgi(engine))),
            inference=HttpInference(Neighbour("inference", InferenceSettings(), Asgi(served))),
        )


async def travel(use: Services) -> list[Any]:
    """One run through all stages; where it waits, the watch asks until it is told."""
    seen: list[Any] = [requested()]
    for stage in (validate, train, index, deploy, warm):
        with in_hand(a_step(stage.name, run_id=RUN)):
            seen.append(await stage(seen[-1], use))
        if isinstance(seen[-1], TrainingStarted | IndexStarted):
            seen.append(await asked(stage, seen[-1], use))
    return seen


async def asked(stage: Stage, started: Any, use: Services) -> Any:
    assert stage.watcher is not None
    while (found := await stage.watcher.ask(started, use)) is None:  # noqa: ASYNC110  # asking again is what is tested
        await asyncio.sleep(0.01)
    return found


async def test_a_request_travels_to_a_warm_cache(use: Services) -> None:
    seen = await travel(use)
    wanted = [TrainingValidated, TrainingStarted, TrainingCompleted, IndexBuilt, ModelDeployed, CacheWarmed]
    assert [type(each) for each in seen[1:] if not isinstance(each, IndexStarted)] == wanted
    assert seen[-1].items > 0
    assert await use.inference.health("acme", seen[-2].version) is Health.HEALTHY
    assert await use.inference.health("acme", 99) is Health.UNKNOWN


async def test_a_second_run_replaces_the_first_and_an_old_number_conflicts(use: Services) -> None:
    [*_, built, first, _] = await travel(use)
    with in_hand(a_step("deploy", run_id=RUN, round=2)) as step:
        second = await deploy(built, use)
        assert (second.version, second.previous_version) == (2, first.version)
        paths = {"model_path": built.model_path, "index_path": built.index_path, "config": {}}
        key = f"{step.run_id}:deploy:3"
        late = await use.inference.deploy(tenant_id="acme", version=3, expected_version=1, key=key, **paths)
        assert late == Conflict(2)
        assert await use.inference.deploy(tenant_id="acme", version=3, expected_version=2, key=key, **paths) is None
        reused = await use.inference.deploy(tenant_id="acme", version=3, expected_version=3, key=key, **paths)
        assert reused == Conflict(None)


async def test_a_lost_ledger_gives_a_number_again_and_the_service_keeps_what_it_has(use: Services) -> None:
    [*_, built, first, _] = await travel(use)
    folder = "indices/acme/anew"
    for name in ("index.faiss", "items.ids", "manifest.json"):
        use.objects.files["embeddings-indices", f"{folder}/{name}"] = use.objects.files["embeddings-indices", f"{built.index_path}/{name}"]  # type: ignore[attr-defined]
    anew, forgetful = built.model_copy(update={"index_path": folder, "job_id": None}), replace(use, versions=FakeVersions())
    with in_hand(a_step("deploy")), pytest.raises(GiveUp) as said:
        await deploy(anew, forgetful)
    assert said.value.code == "version_taken"
    with in_hand(a_step("deploy")):  # as after `tidemill retry`
        assert (await deploy(anew, forgetful)).version == first.version + 1


async def test_an_index_that_was_changed_in_the_store_is_refused_and_the_old_version_serves_on(use: Services) -> None:
    [*_, built, first, _] = await travel(use)
    folder = "indices/acme/changed"
    for name in ("index.faiss", "items.ids", "manifest.json"):
        use.objects.files["embeddings-indices", f"{folder}/{name}"] = use.objects.files["embeddings-indices", f"{built.index_path}/{name}"]  # type: ignore[attr-defined]
    use.objects.files["embeddings-indices", f"{folder}/index.faiss"] += b"x"  # type: ignore[attr-defined]
    with in_hand(a_step("deploy", run_id=RUN, round=2)), pytest.raises(GiveUp, match="checksum_mismatch") as said:
        await deploy(built.model_copy(update={"index_path": folder, "job_id": None}), use)
    assert said.value.code == "inference_refused"
    assert await use.inference.health("acme", first.version) is Health.HEALTHY


async def test_jobs_unknown_to_the_engine_are_known_to_be_so(use: Services) -> None:
    for strange in (str(uuid4()), "../../etc", "..", "a/b?c#d", "%2e%2e", "ü"):
        assert await use.ml_engine.job(strange) is None
        with in_hand(a_step("train")):
            await use.ml_engine.cancel("no-such-job")
