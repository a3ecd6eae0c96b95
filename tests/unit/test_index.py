"""The index stage: whose model it takes, what it leaves in S3 and in which order, and how the engine may do it instead."""

import hashlib
import json
import tempfile

import pytest

from agents import index
from streams.clients.objects import ObjectMissing
from streams.cpu import ChildDied, ChildFailed
from streams.stage import GiveUp, TryAgain
from tests.fakes import InlineCpu, a_step, in_hand
from tests.unit.stages import INDEX_PATH, INDICES, MODEL_PATH, MODELS, RUN, SHA, a_house, completed, put_model


@pytest.fixture
def use():
    use = a_house()
    put_model(use.objects)
    return use


@pytest.fixture(autouse=True)
def step():
    with in_hand(a_step("index", run_id=RUN)) as step:
        yield step


async def code_of(use, **changes) -> str:
    with pytest.raises(GiveUp) as said:
        await index(completed(**changes), use)
    return said.value.code


async def test_the_index_lies_in_a_folder_of_its_own_and_the_manifest_comes_last(use):
    built = await index(completed(), use)
    assert use.objects.writes == [f"{INDEX_PATH}/{name}" for name in ("index.faiss", "items.ids", "manifest.json")]
    assert (built.index_path, built.model_path, built.manifest) == (INDEX_PATH, MODEL_PATH, f"{INDEX_PATH}/manifest.json")
    assert (built.kind, built.vectors, built.dim, built.recall) == ("Flat", 4, 4, 1.0)
    assert built.sha256 == hashlib.sha256(use.objects.files[INDICES, f"{INDEX_PATH}/index.faiss"]).hexdigest()
    manifest = json.loads(use.objects.files[INDICES, built.manifest])
    assert (manifest["tenant_id"], manifest["run_id"], manifest["model_path"]) == ("acme", str(RUN), MODEL_PATH)


async def test_another_fence_writes_to_another_folder(use):
    with in_hand(a_step("index", run_id=RUN, fence=8)):
        assert (await index(completed(), use)).index_path == f"indices/acme/{RUN}/1-8"


async def test_a_completion_without_a_model_path_is_refused(use):
    assert await code_of(use, model_path=None) == "no_model_path"


@pytest.mark.parametrize(
    "path",
    [
        "models/other/x",
        "models/acme",
        "models/acme/",
        "models/acme/../other/x",
        "models/acme//x",
        "models/acme/%2e%2e/x",
        "s3://models/acme/x",
        "/models/acme/x",
        "indices/acme/x",
        "models/acme-2/x",
        "models/acme/x\n",
        "models/acmé/x",
        "",
    ],
)
async def test_a_path_that_is_not_the_tenants_is_never_read(use, path):
    assert await code_of(use, model_path=path) == "foreign_path"


@pytest.mark.parametrize("facts", [{"tenant_id": "other"}, {"run_id": "00000000-0000-0000-0000-0000000000bb"}])
async def test_a_manifest_of_another_tenant_or_run_is_refused(use, facts):
    put_model(use.objects, **facts)
    assert await code_of(use) == "foreign_manifest"


@pytest.mark.parametrize("facts", [{"dim": 0}, {"sha256": {"items.npy": "x"}}, {"sha256": {}}, {"dim": None}])
async def test_a_senseless_manifest_is_refused(use, facts):
    put_model(use.objects, **facts)
    assert await code_of(use) == "bad_manifest"
    use.objects.files[MODELS, f"{MODEL_PATH}/manifest.json"] = b"<html>"
    assert await code_of(use) == "bad_manifest"


async def test_a_model_that_is_not_there_yet_is_looked_for_again(use):
    del use.objects.files[MODELS, f"{MODEL_PATH}/manifest.json"]
    with pytest.raises(ObjectMissing):
        await index(completed(), use)


async def test_a_width_other_than_announced_is_refused_and_nothing_is_uploaded(use):
    put_model(use.objects, dim=8)
    use_with_child = a_house(objects=use.objects, cpu=Child(ChildFailed("dim_mismatch", "BadModel", "items.npy has 4 columns")))
    assert await code_of(use_with_child) == "dim_mismatch"
    assert use.objects.writes == []


class Child(InlineCpu):
    """A child that ends in a certain way."""

    def __init__(self, end) -> None:
        self.end = end

    async def run(self, function, *args, timeout):  # as the real one
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.mark.parametrize(
    ("end", "code"), [(ChildDied("SIGSEGV"), "index_child_died"), (TimeoutError("build took longer than 3600 s and was stopped"), "index_too_slow")]
)
async def test_a_child_that_dies_or_hangs_fails_alone(use, end, code):
    with pytest.raises(TryAgain) as said:
        await index(completed(), a_house(objects=use.objects, cpu=Child(end)))
    assert said.value.code == code


async def test_a_full_disk_is_named_with_its_folder_and_tried_again(use):
    full = Child(ChildFailed("disk_full", "RuntimeError", "write error: No space left on device"))
    with pytest.raises(TryAgain, match=tempfile.gettempdir()) as said:
        await index(completed(), a_house(objects=use.objects, cpu=full))
    assert said.value.code == "disk_full"


async def test_a_child_without_enough_memory_says_what_to_set(use):
    with pytest.raises(GiveUp, match="CHILD_MEMORY") as said:
        await index(completed(), a_house(objects=use.objects, cpu=Child(ChildFailed("out_of_memory", "MemoryError", "too much"))))
    assert said.value.code == "out_of_memory"


async def test_an_index_below_the_floor_is_not_uploaded(use):
    poor = {"vectors": 5000, "dim": 4, "kind": "IVF", "nlist": 100, "nprobe": 50, "recall": 0.5, "sha256": SHA}
    with pytest.raises(GiveUp, match="50%") as said:
        await index(completed(), a_house(objects=use.objects, cpu=Child(poor)))
    assert said.value.code == "recall_too_low"
    assert use.objects.writes == []


class TestByTheEngine:
    @pytest.fixture
    def use(self):
        return a_house(builder="engine")

    async def test_the_engine_is_asked_and_the_run_waits(self, use):
        started = await index(completed(), use)
        [asked] = use.ml_engine.asked
        assert asked["model_path"] == MODEL_PATH
        assert asked["output_path"] == f"indices/acme/{RUN}/1/"
        assert await index.watcher.ask(started, use) is None

    async def test_another_worker_asks_with_the_same_body(self, use):
        started = await index(completed(), use)
        with in_hand(a_step("index", run_id=RUN, fence=9)):
            assert (await index(completed(), use)).job_id == started.job_id
        assert len(use.ml_engine.asked) == 1

    async def test_the_watch_finds_what_the_callback_would_have_said(self, use):
        started = await index(completed(), use)
        result = {"index_path": INDEX_PATH, "model_path": MODEL_PATH, "vectors": 4, "dim": 4, "kind": "Flat", "sha256": SHA, "recall": 1.0}
        use.ml_engine.finish(started.job_id, result=result)
        found = await index.watcher.ask(started, use)
        assert (found.run_id, found.job_id, found.index_path, found.vectors) == (RUN, started.job_id, INDEX_PATH, 4)

    async def test_a_result_without_facts_is_not_believed(self, use):
        started = await index(completed(), use)
        use.ml_engine.finish(started.job_id, result={"index_path": INDEX_PATH})
        with pytest.raises(TryAgain) as said:
            await index.watcher.ask(started, use)
        assert said.value.code == "ml_engine_lied"

    async def test_a_failed_build_is_named_with_its_reason(self, use):
        started = await index(completed(), use)
        use.ml_engine.finish(started.job_id, "failed", error="bad_vectors: NaN")
        with pytest.raises(GiveUp, match="bad_vectors: NaN") as said:
            await index.watcher.ask(started, use)
        assert (said.value.code, said.value.again) == ("index_failed", True)

    async def test_a_build_that_somebody_cancelled_at_the_engine_is_not_started_again(self, use):
        started = await index(completed(), use)
        use.ml_engine.finish(started.job_id, "cancelled")
        with pytest.raises(GiveUp) as said:
            await index.watcher.ask(started, use)
        assert (said.value.code, said.value.again) == ("index_cancelled", False)

    async def test_a_build_nobody_wants_any_more_is_cancelled(self, use):
        started = await index(completed(), use)
        await index.watcher.cancel(started, use)
        assert use.ml_engine.cancelled == [started.job_id]
