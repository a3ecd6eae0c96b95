"""What is done to artifacts of a deployment before this service touches them, in a child process: read all of it, once.

A crafted or torn file may crash FAISS or NumPy's readers; then a child dies, the deployment is refused, and what is live stays live.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reference.artifacts import read_ids
from reference.errors import Failed


def unpack(model: Path, index: Path, dim: int) -> dict[str, Any]:
    """Check that index, ids, users and seen pairs fit together; write who has seen what as plain arrays beside the users."""
    faiss.omp_set_num_threads(1)
    items = _read("items.ids", lambda: read_ids(index / "items.ids"))
    users = _read("users.ids", lambda: read_ids(model / "users.ids"))
    vectors = _read("users.npy", lambda: np.load(model / "users.npy", allow_pickle=False))
    if vectors.shape != (len(users), dim) or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise Failed("bad_users", f"users.npy must be a finite float32 matrix of {len(users)} x {dim}; train the model again")
    found = _read("index.faiss", lambda: faiss.read_index(str(index / "index.faiss")))
    _check_index(found, len(items), dim, vectors[:64])
    _write_seen(_read("seen.parquet", lambda: pq.read_table(model / "seen.parquet", columns=["user_id", "item_id"])), model, users, items)
    return {"vectors": len(items), "users": len(users), "dim": dim}


def _read(name: str, reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except (RuntimeError, ValueError, OSError, EOFError, pa.ArrowException) as error:
        raise Failed("unreadable_artifact", f"{name} cannot be read ({type(error).__name__}); build it again") from error


def _check_index(index: Any, items: int, dim: int, queries: NDArray[np.float32]) -> None:
    if index.d != dim or index.ntotal != items or items == 0 or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        told = f"the index has {index.ntotal} vectors of {index.d} dimensions"
        raise Failed("index_mismatch", f"{told}, ids and manifest say {items} of {dim} by inner product; build it again")
    scores, found = index.search(queries, min(10, items))
    if not np.isfinite(scores[found >= 0]).all() or found.max() >= items:
        raise Failed("bad_index", "the index answers with items or scores that cannot be; build it again")


def _write_seen(pairs: pa.Table, folder: Path, users: list[str], items: list[str]) -> None:
    """`seen_start.npy` and `seen_items.npy` (rows of users, compressed), and `popular.npy`: items by how many users have them."""
    user = pc.index_in(pairs["user_id"].combine_chunks(), pa.array(users)).to_numpy(zero_copy_only=False)
    item = pc.index_in(pairs["item_id"].combine_chunks(), pa.array(items)).to_numpy(zero_copy_only=False)
    known = ~(np.isnan(user.astype(float)) | np.isnan(item.astype(float)))
    user, item = user[known].astype(np.int64), item[known].astype(np.int64)
    order = np.lexsort((item, user))
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(users)))])
    counts = np.bincount(item, minlength=len(items))
    np.save(folder / "seen_start.npy", starts)
    np.save(folder / "seen_items.npy", item[order])
    np.save(folder / "popular.npy", np.stack([np.argsort(-counts, kind="stable"), np.sort(counts)[::-1]]))
