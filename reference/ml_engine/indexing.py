"""What an index job's child process does: item vectors in, a FAISS index with measured recall out."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reference.artifacts import INDEX_FILES, write_manifest
from reference.errors import Failed

FLAT_BELOW = 1000
"""With fewer vectors an exact index is both smaller and faster than IVF."""
RECALL = 0.95
QUERIES = 256


def build(folder: Path, index_type: str, nlist: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    """Index `items.npy` of `folder`, and write index and manifest beside it; returns the manifest."""
    faiss.omp_set_num_threads(1)
    items = _vectors(folder / "items.npy")
    queries = _sample(_vectors(folder / "users.npy"))
    if index_type == "Flat" or len(items) < FLAT_BELOW:
        shape: dict[str, Any] = {"kind": "Flat", "nlist": 0, "nprobe": 0, "recall": 1.0}
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
    else:
        index, shape = _ivf(items, queries, nlist or int(4 * np.sqrt(len(items))))
    faiss.write_index(index, str(folder / "index.faiss"))
    return write_manifest(folder, INDEX_FILES, dim=items.shape[1], metric="ip", vectors=len(items), **shape, **facts)


def _vectors(file: Path) -> NDArray[np.float32]:
    try:
        vectors: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Failed("bad_vectors", f"{file.name} is not an array of vectors") from error
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors) or not np.isfinite(vectors).all():
        raise Failed("bad_vectors", f"{file.name} must be a non-empty, finite float32 matrix; train the model again")
    return vectors


def _sample(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors[np.random.default_rng(7).permutation(len(vectors))[:QUERIES]]


def _ivf(items: NDArray[np.float32], queries: NDArray[np.float32], nlist: int) -> tuple[Any, dict[str, Any]]:
    """An IVF index and the smallest nprobe that reaches the wanted recall against exact search."""
    nlist = max(1, min(nlist, len(items) // 39))  # FAISS wants 39 vectors a cell to learn it
    index: Any = faiss.index_factory(items.shape[1], f"IVF{nlist},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    exact = faiss.knn(queries, items, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]
    nprobe, recall = 1, 0.0
    while True:
        index.nprobe = nprobe
        found = index.search(queries, 10)[1]
        recall = float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(exact, found, strict=True)]))
        if recall >= RECALL or nprobe >= nlist:
            return index, {"kind": "IVF", "nlist": nlist, "nprobe": nprobe, "recall": round(recall, 4)}
        nprobe = min(nlist, nprobe * 2)
