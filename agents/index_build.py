"""What the child process of the index stage does: files in, files out; it is loaded by its path, so it imports nothing of the house."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

QUERIES = 500
NEIGHBOURS = 10
POINTS_PER_CELL = 39
"""FAISS wants at least so many vectors to learn a cell."""


class BadModel(Exception):
    """The model's files cannot be indexed: a code and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def build(folder: str, dim: int, flat_below: int, recall_target: float, facts: dict[str, str]) -> dict[str, Any]:
    """Index `items.npy`, measure the recall with `users.npy`, write `index.faiss` and `manifest.json`; returns what `index.built` says."""
    import faiss  # here and not above: the worker imports this file too, and must stay light

    faiss.omp_set_num_threads(1)
    here = Path(folder)
    items, queries = _vectors(here / "items.npy", dim), _sample(_vectors(here / "users.npy", dim, may_be_empty=True))
    _check_ids(here / "items.ids", len(items))
    if not items.any():
        raise BadModel("degenerate_vectors", "all item vectors are zero, so every item is as good as any other")
    index, shape = _exact(items) if len(items) < flat_below else _ivf(items, queries if len(queries) else _sample(items), recall_target)
    faiss.write_index(index, str(here / "index.faiss"))
    digests = {name: _sha256(here / name) for name in ("index.faiss", "items.ids")}
    about = {"vectors": len(items), "dim": dim, **shape}
    manifest = {**facts, **about, "metric": "ip", "sha256": digests}
    (here / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return {**about, "sha256": digests["index.faiss"]}


def _vectors(file: Path, dim: int, *, may_be_empty: bool = False) -> "Vectors":
    import numpy as np

    try:
        with file.open("rb") as data:
            vectors = np.lib.format.read_array(data, allow_pickle=False)  # np.load would also open zip files
    except (ValueError, EOFError, OSError) as error:
        raise BadModel("bad_vectors", f"{file.name} is not an array of numbers") from error
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise BadModel("bad_vectors", f"{file.name} is not a matrix of float32")
    if vectors.shape[1] != dim:
        raise BadModel("dim_mismatch", f"{file.name} has {vectors.shape[1]} columns, the model's manifest says {dim}")
    if not may_be_empty and not len(vectors):
        raise BadModel("no_vectors", f"{file.name} has no rows")
    if not np.isfinite(vectors).all():
        raise BadModel("bad_numbers", f"{file.name} holds NaN or infinite numbers: the training diverged")
    return np.ascontiguousarray(vectors)


def _check_ids(file: Path, wanted: int) -> None:
    """One id a line, each once: a row without a name, or two with one, would recommend the wrong item."""
    try:
        ids = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadModel("bad_ids", f"{file.name} is not UTF-8") from error
    if len(ids) != wanted or "" in ids or len(set(ids)) != wanted:
        raise BadModel("ids_mismatch", f"{file.name} has {len(ids)} ids, {len(set(ids))} of them different, for {wanted} vectors")


def _sample(vectors: "Vectors") -> "Vectors":
    import numpy as np

    return vectors[np.sort(np.random.default_rng(7).permutation(len(vectors))[:QUERIES])]


def _exact(items: "Vectors") -> tuple["faiss.Index", dict[str, Any]]:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return index, {"kind": "Flat", "nlist": 0, "nprobe": 0, "recall": 1.0}


def _ivf(items: "Vectors", queries: "Vectors", recall_target: float) -> tuple["faiss.Index", dict[str, Any]]:
    """About 4 √n cells, and the smallest nprobe (1, 2, 4, … at most half of the cells) that reaches the recall wanted."""
    import faiss

    nlist = max(1, min(round(4 * len(items) ** 0.5), len(items) // POINTS_PER_CELL))
    quantizer = faiss.IndexFlatIP(items.shape[1])
    index = faiss.IndexIVFFlat(quantizer, items.shape[1], nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid = 7, 128  # the same model gives the same index
    index.train(items)
    index.add(items)
    index.nprobe, recall = 1, _recall(index, items, queries)
    while recall < recall_target and index.nprobe * 2 <= nlist // 2:
        index.nprobe *= 2
        recall = _recall(index, items, queries)
    return index, {"kind": "IVF", "nlist": nlist, "nprobe": index.nprobe, "recall": round(recall, 4)}


def _recall(index: "faiss.Index", items: "Vectors", queries: "Vectors") -> float:
    """How many of the true best ten are found; equal scores count as equal, or copies of one vector would look like misses."""
    import faiss

    k = min(NEIGHBOURS, len(items))
    exact = faiss.knn(queries, items, k, metric=faiss.METRIC_INNER_PRODUCT)[0]
    found = index.search(queries, k)[0]
    worst = exact[:, -1:] - 1e-5 * abs(exact[:, -1:])
    return float((found >= worst).sum(axis=1).mean() / k)


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
