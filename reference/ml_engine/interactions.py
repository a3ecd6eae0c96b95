"""A tenant's interactions as three arrays: read from .json, .jsonl and .parquet files, rows that say nothing left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reference.errors import Failed

WEIGHTS = {"purchase": 4.0, "buy": 4.0, "order": 4.0, "cart": 3.0, "add_to_cart": 3.0, "like": 2.0, "favorite": 2.0, "rating": 2.0, "click": 1.5}
"""How much an interaction says about taste; a view, and any type not named here, counts 1."""

Row = tuple[object, object, object]


@dataclass(slots=True)
class Interactions:
    """Who did how much with what: positions into the two lists of ids, and a weight."""

    users: list[str]
    items: list[str]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    skipped: int


def load(folder: Path) -> Interactions:
    """All interactions of the files in `folder`, in the order of their names."""
    users, items = _Ids(), _Ids()
    user: list[int] = []
    item: list[int] = []
    weight: list[float] = []
    skipped = 0
    for who, what, how in rows(folder):
        if not (_usable(who) and _usable(what)):
            skipped += 1
            continue
        user.append(users[str(who)])
        item.append(items[str(what)])
        weight.append(WEIGHTS.get(how, 1.0) if isinstance(how, str) else 1.0)
    return Interactions(list(users), list(items), np.array(user, np.int64), np.array(item, np.int64), np.array(weight, np.float32), skipped)


class _Ids(dict[str, int]):
    """Numbers ids in the order they are first seen."""

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self)
        return number


def _usable(value: object) -> bool:
    """Ids are text or whole numbers, and fit on one line of UTF-8."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    text = str(value)
    return 0 < len(text) <= 512 and text.isprintable()


def rows(folder: Path) -> Iterator[Row]:
    """(user_id, item_id, interaction_type) of every row; an unreadable file is named."""
    for file in sorted(folder.iterdir()):
        try:
            yield from _parquet(file) if file.suffix == ".parquet" else _objects(_json(file))
        except (pa.ArrowException, orjson.JSONDecodeError, OSError, KeyError) as error:
            name = file.name.partition("-")[2]  # the number in front is ours
            why = f"{name} is not a readable {file.suffix[1:]} file of interactions ({type(error).__name__}); upload it again"
            raise Failed("unreadable_file", why) from error


def _parquet(file: Path) -> Iterator[Row]:
    reader = pq.ParquetFile(file)
    names = set(reader.schema_arrow.names)
    if not {"user_id", "item_id"} <= names:
        raise KeyError("user_id, item_id")
    columns = [name for name in ("user_id", "item_id", "interaction_type") if name in names]
    for batch in reader.iter_batches(columns=columns):
        data = batch.to_pydict()
        kinds: Iterable[object] = data.get("interaction_type") or [None] * batch.num_rows
        yield from zip(data["user_id"], data["item_id"], kinds, strict=True)


def _json(file: Path) -> Iterator[Any]:
    """A `.json` file is one document (a list, or an object with a list) or, as `.jsonl`, one object a line."""
    data = file.read_bytes()
    if file.suffix == ".json":
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # many tools write lines into .json; a truly broken file fails on its first line below
        else:
            found = document.get("interactions", document) if isinstance(document, dict) else document
            yield from found if isinstance(found, list) else [found]
            return
    yield from (orjson.loads(line) for line in data.split(b"\n") if line.strip())


def _objects(values: Iterable[Any]) -> Iterator[Row]:
    for value in values:
        if isinstance(value, dict):
            yield value.get("user_id"), value.get("item_id"), value.get("interaction_type")
        else:
            yield None, None, None
