"""A disk that is full, and what killed workers left on it."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from streams.clients.objects import S3ObjectStore
from streams.disk import remove_leftovers
from streams.stage import TryAgain

SIZE = 3 << 20


class Body:
    """An object's bytes as they come from the store."""

    def __init__(self) -> None:
        self.left = SIZE

    async def __aenter__(self) -> "Body":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self, count: int) -> bytes:
        some = min(count, self.left)
        self.left -= some
        return b"x" * some


class Client:
    async def get_object(self, **_: str) -> dict[str, Any]:
        return {"ContentLength": SIZE, "Body": Body()}


async def test_a_full_disk_is_not_blamed_on_the_object_store(tmp_path: Path) -> None:
    store = S3ObjectStore(Client())  # type: ignore[arg-type]
    full = tmp_path / "items.npy"
    full.symlink_to("/dev/full")
    with pytest.raises(TryAgain, match=str(tmp_path)) as said:
        await store.download("models", "m/items.npy", full)
    assert (said.value.code, said.value.free) == ("disk_full", False)


def test_a_worker_that_starts_removes_what_killed_ones_left_a_day_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, hours in (("tidemill-index-old", 25), ("tidemill-index-busy", 2), ("tidemill-home", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "items.npy").write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - hours * 3600,) * 2)
    assert remove_leftovers() == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tidemill-home", "tidemill-index-busy"]
