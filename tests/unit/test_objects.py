"""The object store client and a store that is too slow, on virtual time: no call outlives what its size allows."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest

from streams.clients import objects
from streams.clients.objects import CHUNK, LEAST_RATE, PART, PATIENCE, S3ObjectStore
from streams.stage import TryAgain

pytestmark = pytest.mark.looptime

SLOW = 29.0
"""Seconds from one socket read to the next: just below what the client allows for each."""
BUCKET, KEY = "embeddings-indices", "indices/acme/index.faiss"


class Body:
    """So many chunks of an answer, one after each pause."""

    def __init__(self, chunks: int, pause: float) -> None:
        self._left, self._pause = chunks, pause
        self.content = self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def read(self, size: int | None = None) -> bytes:
        """The next chunk, or all that is left."""
        length = 0
        while self._left and (size is None or not length):
            await asyncio.sleep(self._pause)
            self._left, length = self._left - 1, length + min(CHUNK, size or CHUNK)
        return bytes(length)


class Dripping:
    """Answers at once, then brings a chunk after each pause."""

    def __init__(self, chunks: int, pause: float) -> None:
        self._chunks, self._pause = chunks, pause

    async def get_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": self._chunks * CHUNK, "Body": Body(self._chunks, self._pause)}


class Hanging:
    """Takes every call and answers none; remembers which."""

    def __init__(self, *, answers: tuple[str, ...] = ()) -> None:
        self._answers, self.asked = answers, list[str]()

    def get_paginator(self, _: str) -> Any:
        async def pages(**_: Any) -> AsyncIterator[dict[str, Any]]:
            await self._call("list")
            yield {}

        return SimpleNamespace(paginate=pages)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return lambda **_: self._call(name)

    async def _call(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        if name not in self._answers:
            await asyncio.sleep(1e9)
        return {"UploadId": "upload-1", "ETag": "e"}


def store(client: Any) -> S3ObjectStore:
    return S3ObjectStore(client)


async def cut_off(call: Awaitable[Any]) -> float:
    """After how many seconds it ended with the code of other S3 timeouts."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(TryAgain, match="TimeoutError") as said:
        await call
    assert (said.value.code, said.value.free) == ("s3_error", False)
    return asyncio.get_running_loop().time() - began


async def test_an_object_that_drips_is_given_up_after_the_time_that_its_size_allows():
    assert await cut_off(store(Dripping(40, SLOW)).get(BUCKET, KEY, limit=1 << 30)) == pytest.approx(PATIENCE + 40 * CHUNK / LEAST_RATE)
    assert await cut_off(store(Dripping(40, SLOW)).peek(BUCKET, KEY, 4 * CHUNK)) == pytest.approx(PATIENCE + 4 * CHUNK / LEAST_RATE)


async def test_a_large_object_that_comes_slowly_but_steadily_is_read():
    chunks = int(3 * PATIENCE)
    assert len(await store(Dripping(chunks, CHUNK / LEAST_RATE)).get(BUCKET, KEY, limit=1 << 40)) == chunks * CHUNK


@pytest.mark.looptime(False)
async def test_a_file_that_drips_is_given_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE", 0.2)
    monkeypatch.setattr(objects, "LEAST_RATE", 100 * CHUNK)
    assert await cut_off(store(Dripping(10, 0.15)).download(BUCKET, KEY, tmp_path / "file")) < 1.4
    await store(Dripping(10, 0.001)).download(BUCKET, KEY, tmp_path / "file", sha256=hashlib.sha256(bytes(10 * CHUNK)).hexdigest())


async def test_no_other_call_waits_for_ever():
    hanging = store(Hanging())
    assert await cut_off(hanging.bucket_exists(BUCKET)) == pytest.approx(PATIENCE)
    assert await cut_off(hanging.put(BUCKET, KEY, bytes(5 * LEAST_RATE))) == pytest.approx(PATIENCE + 5)
    assert await cut_off(hanging.delete_prefix(BUCKET, "indices/acme/")) == pytest.approx(PATIENCE)


@pytest.mark.looptime(False)
async def test_an_upload_that_hangs_in_a_part_is_taken_back_and_that_does_not_hang_either(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE", 0.1)
    monkeypatch.setattr(objects, "LEAST_RATE", 100 * PART)
    (tmp_path / "file").write_bytes(bytes(PART + 1))
    hanging = Hanging(answers=("create_multipart_upload",))
    assert await cut_off(store(hanging).upload(BUCKET, KEY, tmp_path / "file")) < 1.5
    assert hanging.asked == ["create_multipart_upload", "upload_part", "abort_multipart_upload"]
