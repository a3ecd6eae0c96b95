"""A served version: who gets which items, from an index and arrays that a child process has already read once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from reference.artifacts import read_ids


class Item(NamedTuple):
    """One recommendation."""

    item_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Model:
    """One tenant's served version; only read after it is loaded, so any thread may ask."""

    version: int
    index: Any
    probes: int
    """How many cells of the index are searched (0: the index is exact)."""
    items: list[str]
    rows: dict[str, int]
    users: NDArray[np.float32]
    seen_start: NDArray[np.int64]
    seen_items: NDArray[np.int64]
    popular: NDArray[np.int64]

    def recommend(self, user: str, k: int) -> tuple[list[Item], bool]:
        """The `k` best items the user does not have yet; for an unknown user the popular ones, and True."""
        row = self.rows.get(user)
        if row is None:
            return self.top(k), True
        seen = set(self.seen_items[self.seen_start[row] : self.seen_start[row + 1]].tolist())
        wanted = min(len(self.items), k + len(seen))
        fresh = self._search(row, wanted, self.probes, seen)
        if len(fresh) < k and self.probes:  # the probed cells hold too few unseen items: look into all
            fresh = self._search(row, wanted, self.index.nlist, seen)
        return fresh[:k], False

    def top(self, k: int) -> list[Item]:
        """The items most users have."""
        ranks, counts = self.popular[:, :k].tolist()
        return [Item(self.items[rank], float(count)) for rank, count in zip(ranks, counts, strict=True)]

    def _search(self, row: int, wanted: int, probes: int, seen: set[int]) -> list[Item]:
        params = faiss.SearchParametersIVF(nprobe=probes) if probes else None  # type: ignore[call-arg]  # SWIG takes fields by name
        scores, found = self.index.search(self.users[row : row + 1], wanted, params=params)
        pairs = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [Item(self.items[at], round(score, 6)) for at, score in pairs if at >= 0 and at not in seen]


def load(version: int, model: Path, index: Path, probes: int) -> Model:
    """Open a version whose files were unpacked."""
    faiss.omp_set_num_threads(1)
    opened = faiss.read_index(str(index / "index.faiss"))
    cells = getattr(opened, "nlist", 0)
    users = read_ids(model / "users.ids")
    return Model(
        version=version,
        index=opened,
        probes=min(cells, max(1, probes)) if cells else 0,
        items=read_ids(index / "items.ids"),
        rows={user: row for row, user in enumerate(users)},
        users=np.load(model / "users.npy", mmap_mode="r", allow_pickle=False),
        seen_start=np.load(model / "seen_start.npy", allow_pickle=False),
        seen_items=np.load(model / "seen_items.npy", mmap_mode="r", allow_pickle=False),
        popular=np.load(model / "popular.npy", allow_pickle=False),
    )
