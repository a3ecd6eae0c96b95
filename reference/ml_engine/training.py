"""What a training job's child process does: interactions from files in, a model as files out; no network, no database."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from reference.artifacts import MODEL_FILES, write_ids, write_manifest
from reference.errors import Failed
from reference.ml_engine.factorise import factorise
from reference.ml_engine.interactions import Interactions, load


def train(source: Path, target: Path, factors: int, epochs: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Learn from the files in `source`, write the model and its manifest to `target`, return the metrics."""
    started = time.monotonic()
    data = load(source)
    _check(data)
    seen = sp.csr_matrix((data.weight, (data.user, data.item)), shape=(len(data.users), len(data.items)))
    users, items, loss = factorise(seen, min(factors, 4 * min(seen.shape)), epochs)
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise Failed("diverged", f"training on {len(data.user)} interactions did not converge; lower model_config.factors")
    target.mkdir(parents=True)
    _write(target, data, seen, users, items)
    counts = {"users": len(data.users), "items": len(data.items), "interactions": len(data.user)}
    metrics = {"train_loss": round(loss, 6), **counts, "skipped_rows": data.skipped, "seconds": round(time.monotonic() - started, 3)}
    write_manifest(target, MODEL_FILES, kind="model", dim=items.shape[1], metric="ip", counts=counts, metrics=metrics, **facts)
    return metrics


def _check(data: Interactions) -> None:
    if len(data.user) == 0:
        raise Failed("no_interactions", f"no row has a user_id and an item_id ({data.skipped} rows were left out)")
    if len(data.users) < 2 or len(data.items) < 2:
        found = f"{len(data.user)} interactions of {len(data.users)} users with {len(data.items)} items"
        raise Failed("too_little_data", f"found {found}; training needs at least two users and two items")


def _write(target: Path, data: Interactions, seen: sp.csr_matrix, users: np.ndarray, items: np.ndarray) -> None:
    np.save(target / "users.npy", np.ascontiguousarray(users, np.float32), allow_pickle=False)
    np.save(target / "items.npy", np.ascontiguousarray(items, np.float32), allow_pickle=False)
    write_ids(target / "users.ids", data.users)
    write_ids(target / "items.ids", data.items)
    pairs = seen.tocoo()
    names = {"user_id": (data.users, pairs.row), "item_id": (data.items, pairs.col)}
    pq.write_table(pa.table({column: pa.array(ids).take(pa.array(at)) for column, (ids, at) in names.items()}), target / "seen.parquet")
