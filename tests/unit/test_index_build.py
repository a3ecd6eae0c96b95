"""Index builds with the real FAISS, in a real child: what comes out, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.index_build import build
from streams.cpu import ChildFailed, ChildProcesses

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(120)]
FACTS = {"tenant_id": "acme", "run_id": "00000000-0000-0000-0000-000000000001", "model_path": "models/acme/r/1"}


@pytest.fixture
async def cpu():
    async with ChildProcesses(1, memory=4 << 30) as children:
        yield children


def clustered(n: int, dim: int = 16, seed: int = 1) -> np.ndarray:
    """Vectors with latent structure, as a trained model has them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, dim))
    return (centres[rng.integers(50, size=n)] + 0.3 * rng.normal(size=(n, dim))).astype(np.float32)


def a_model(folder: Path, items: np.ndarray, users: np.ndarray | None = None, ids: str | None = None) -> Path:
    np.save(folder / "items.npy", items)
    np.save(folder / "users.npy", clustered(700, items.shape[-1], seed=2) if users is None else users)
    (folder / "items.ids").write_text("".join(f"item-{n}\n" for n in range(len(items))) if ids is None else ids)
    return folder


async def built(cpu: ChildProcesses, folder: Path, *, dim: int = 16, target: float = 0.95) -> dict[str, Any]:
    return await cpu.run(build, str(folder), dim, 1000, target, FACTS, timeout=100)


async def test_ten_items_get_an_exact_index(cpu, tmp_path):
    answer = await built(cpu, a_model(tmp_path, clustered(10)))
    assert (answer["kind"], answer["vectors"], answer["dim"], answer["nlist"], answer["recall"]) == ("Flat", 10, 16, 0, 1.0)
    assert answer["sha256"] == hashlib.sha256((tmp_path / "index.faiss").read_bytes()).hexdigest()


async def test_five_thousand_items_get_cells_and_the_smallest_nprobe_that_reaches_the_recall(cpu, tmp_path):
    import faiss

    items, users = clustered(5000), clustered(700, seed=2)
    answer = await built(cpu, a_model(tmp_path, items, users))
    assert answer["kind"] == "IVF"
    assert answer["nlist"] == 5000 // 39
    assert answer["recall"] >= 0.95
    index = faiss.read_index(str(tmp_path / "index.faiss"))
    assert (index.ntotal, index.metric_type, index.nprobe) == (5000, faiss.METRIC_INNER_PRODUCT, answer["nprobe"])
    exact = np.argsort(-users @ items.T, axis=1)[:, :10]
    recalls = {}
    for nprobe in (answer["nprobe"] // 2, answer["nprobe"]):
        index.nprobe = max(1, nprobe)
        found = index.search(users, 10)[1]
        recalls[nprobe] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recalls[answer["nprobe"]] > 0.93  # on all users, not on the sample
    if answer["nprobe"] > 1:
        assert recalls[answer["nprobe"] // 2] < 0.97


async def test_the_manifest_names_tenant_run_shape_and_digests(cpu, tmp_path):
    answer = await built(cpu, a_model(tmp_path, clustered(1200)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert FACTS.items() <= manifest.items()
    assert {"vectors": 1200, "dim": 16, "kind": "IVF", "metric": "ip"}.items() <= manifest.items()
    assert manifest["sha256"]["index.faiss"] == answer["sha256"]
    assert manifest["sha256"]["items.ids"] == hashlib.sha256((tmp_path / "items.ids").read_bytes()).hexdigest()


async def test_the_same_model_gives_the_same_index(cpu, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    one, two = [await built(cpu, a_model(folder, clustered(1500))) for folder in folders]
    assert one == two


async def test_copies_of_one_vector_are_no_misses(cpu, tmp_path):
    items = np.repeat(clustered(100), 15, axis=0)
    assert (await built(cpu, a_model(tmp_path, items)))["recall"] >= 0.95


async def test_a_model_without_users_is_measured_with_its_items(cpu, tmp_path):
    answer = await built(cpu, a_model(tmp_path, clustered(1200), users=np.zeros((0, 16), np.float32)))
    assert answer["recall"] >= 0.95


async def test_some_items_without_a_vector_of_their_own_are_fine(cpu, tmp_path):
    items = clustered(1200)
    items[::7] = 0
    assert (await built(cpu, a_model(tmp_path, items)))["vectors"] == 1200


def with_nan() -> np.ndarray:
    items = clustered(20)
    items[3, 4] = np.nan
    return items


BAD = {
    "bad_numbers": {"items": with_nan()},
    "degenerate_vectors": {"items": np.zeros((20, 16), np.float32)},
    "no_vectors": {"items": np.zeros((0, 16), np.float32)},
    "dim_mismatch": {"items": clustered(20, dim=8)},
    "bad_vectors": {"items": clustered(20).astype(np.float64)},
    "ids_mismatch": {"items": clustered(20), "ids": "a\nb\n"},
}


@pytest.mark.parametrize("code", BAD)
async def test_a_model_that_cannot_be_indexed_is_refused_by_name(cpu, tmp_path, code):
    with pytest.raises(ChildFailed) as failed:
        await built(cpu, a_model(tmp_path, **BAD[code]))
    assert failed.value.code == code
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("ids", "code"),
    [("".join(f"{n // 2}\n" for n in range(20)), "ids_mismatch"), ("\n" * 20, "ids_mismatch")],
)
async def test_ids_that_are_not_one_a_row_are_refused(cpu, tmp_path, ids, code):
    with pytest.raises(ChildFailed) as failed:
        await built(cpu, a_model(tmp_path, clustered(20), ids=ids))
    assert failed.value.code == code


@pytest.mark.parametrize("file", ["index.faiss", "manifest.json"])
async def test_a_full_disk_is_not_called_a_bad_model(cpu, tmp_path, file):
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(ChildFailed) as said:
        await built(cpu, a_model(tmp_path, clustered(2000)))
    assert said.value.code == "disk_full"


async def test_users_of_another_width_are_refused(cpu, tmp_path):
    with pytest.raises(ChildFailed, match=r"users\.npy has 8 columns") as failed:
        await built(cpu, a_model(tmp_path, clustered(20), users=clustered(5, dim=8)))
    assert failed.value.code == "dim_mismatch"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04cos\nsystem\n"])
async def test_a_file_that_is_no_array_is_refused_and_never_unpickled(cpu, tmp_path, content):
    a_model(tmp_path, clustered(20))
    (tmp_path / "items.npy").write_bytes(content)
    with pytest.raises(ChildFailed) as failed:
        await built(cpu, tmp_path)
    assert failed.value.code == "bad_vectors"


async def test_an_array_of_objects_is_not_unpickled(cpu, tmp_path):
    a_model(tmp_path, clustered(20))
    np.save(tmp_path / "items.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ChildFailed) as failed:
        await built(cpu, tmp_path)
    assert failed.value.code == "bad_vectors"
