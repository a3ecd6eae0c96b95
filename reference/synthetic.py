"""Interactions of tenants that do not exist, with tastes that can be learned: the demo's data, and the score of what was learned from it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

KINDS = ("view", "click", "cart", "purchase")
_CHANCES = (0.70, 0.18, 0.07, 0.05)
_END = datetime(2026, 1, 1, tzinfo=UTC)
Recommend = Callable[[str], Sequence[str]]
Format = Literal["jsonl", "json", "parquet"]


class Dataset(NamedTuple):
    """What a tenant's model may learn from, and each user's last interaction, which it must not see."""

    train: pa.Table
    heldout: pa.Table


def generate(tenant: str, users: int, items: int, interactions: int, seed: int, *, tastes: int = 8, until: datetime = _END) -> Dataset:
    """Seeded interactions: a user chooses items by shared taste, and somewhat by what is popular anyway."""
    random = np.random.default_rng([seed, *tenant.encode()])
    chances = _chances(random, users, items, tastes)
    activity = random.pareto(2.0, users) + 0.5
    counts = np.clip((activity / activity.sum() * interactions).round().astype(int), 3, max(3, items // 2))
    user = np.repeat(np.arange(users), counts)
    # shuffled, as draws without replacement come most wanted first, and the last row is the one held out
    item = np.concatenate([random.permutation(random.choice(items, size, replace=False, p=chances[who])) for who, size in enumerate(counts)])
    table = pa.table(
        {
            "user_id": pa.array([f"{tenant}-u{number:06d}" for number in user]),
            "item_id": pa.array([f"{tenant}-i{number:06d}" for number in item]),
            "interaction_type": pa.array(random.choice(KINDS, len(user), p=_CHANCES)),
            "timestamp": pa.array([(until - timedelta(seconds=int(ago))).isoformat() for ago in _ages(random, counts)]),
        }
    )
    last = np.cumsum(counts) - 1
    kept = np.ones(len(user), bool)
    kept[last] = False
    return Dataset(table.filter(pa.array(kept)), table.take(pa.array(last)))


def _chances(random: np.random.Generator, users: int, items: int, tastes: int) -> NDArray[np.float64]:
    """Each user's probability of choosing each item: softmax of taste and popularity; users like a few of the tastes, items serve one or two."""
    likes = random.dirichlet(np.full(tastes, 0.25), users)
    serves = random.dirichlet(np.full(tastes, 0.15), items)
    popularity = -0.6 * np.log(random.permutation(items) + 5.0)
    logits = 7.0 * likes @ serves.T + popularity + random.gumbel(0, 0.3, (1, items))
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)  # type: ignore[no-any-return]  # NumPy's division is typed as Any


def _ages(random: np.random.Generator, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds before the end, falling within each user, so that a user's last row is the latest."""
    return np.concatenate([np.sort(random.uniform(60, 90 * 86_400, size))[::-1] for size in counts])


def write(table: pa.Table, folder: Path, form: Format = "jsonl", parts: int = 2) -> list[Path]:
    """The table as `part-00000.{form}` … and a `_SUCCESS` marker, to be put below `training-data/{tenant}/latest/`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // parts)
    files = [_part(table.slice(number * size, size), folder / f"part-{number:05d}.{form}", form) for number in range(parts)]
    marker = folder / "_SUCCESS"
    marker.touch()
    return [*files, marker]


def _part(rows: pa.Table, file: Path, form: Format) -> Path:
    if form == "parquet":
        pq.write_table(rows, file)
    elif form == "json":
        file.write_text(json.dumps(rows.to_pylist()))
    else:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows.to_pylist()))
    return file


def hit_rate(recommend: Recommend, heldout: pa.Table, k: int = 10) -> float:
    """The share of users whose held-out item is among the first `k` recommended."""
    pairs = list(zip(heldout["user_id"].to_pylist(), heldout["item_id"].to_pylist(), strict=True))
    return sum(item in list(recommend(user))[:k] for user, item in pairs) / max(1, len(pairs))


def popularity(train: pa.Table, k: int = 10) -> Recommend:
    """The baseline: what most others took, without what the user already has."""
    ranking = [item for item, _ in Counter(train["item_id"].to_pylist()).most_common()]
    seen: dict[str, set[str]] = {}
    for user, item in zip(train["user_id"].to_pylist(), train["item_id"].to_pylist(), strict=True):
        seen.setdefault(user, set()).add(item)

    def recommend(user: str) -> list[str]:
        had = seen.get(user, set())
        chosen: list[str] = []
        for item in ranking:
            if len(chosen) == k:
                break
            if item not in had:
                chosen.append(item)
        return chosen

    return recommend
