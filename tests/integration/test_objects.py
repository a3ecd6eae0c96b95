"""The object store client against the real SeaweedFS of the local stack."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from agents import validate
from agents.arrivals import look
from streams.clients.objects import ObjectMissing, ObjectStore, open_objects
from streams.local.process import ServerProcess
from streams.local.stack import Stack, running
from streams.settings import S3Settings
from streams.stage import GiveUp, TryAgain
from streams.step import LeaseLost
from tests.chaos.proxy import address
from tests.chaos.store import Store
from tests.fakes import a_step, in_hand
from tests.unit.stages import TRAINING, a_house, requested

pytestmark = [pytest.mark.enable_socket, pytest.mark.looptime(False), pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
BUCKET = "embeddings-indices"


class OnlyObjects(Stack):
    """A stack without the other three servers."""

    def declare(self) -> list[ServerProcess]:
        super().declare()
        return [self.seaweedfs]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Settings]:
    async with running(OnlyObjects(tmp_path_factory.mktemp("objects") / "home")) as stack:
        yield S3Settings(**stack.addresses.s3.model_dump())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(s3: S3Settings) -> AsyncIterator[ObjectStore]:
    async with open_objects(s3) as store:
        for _ in range(100):  # the server makes its buckets a moment after it says that it is healthy
            if await store.bucket_exists(BUCKET):
                break
            await asyncio.sleep(0.1)
        yield store


async def test_a_bucket_is_there_or_not(store):
    assert await store.bucket_exists(BUCKET)
    assert not await store.bucket_exists("nobodys-bucket")


async def test_a_listing_has_all_pages_in_order(store):
    for start in range(0, 1005, 67):  # all at once would try a busy machine, not the store
        await asyncio.gather(*(store.put(BUCKET, f"indices/pages/{n:05}", b"x") for n in range(start, start + 67)))
    found = [each async for each in store.list(BUCKET, "indices/pages/")]
    assert [each.key for each in found] == [f"indices/pages/{n:05}" for n in range(1005)]
    assert {(each.size, each.etag) for each in found} == {(1, hashlib.md5(b"x").hexdigest())}
    assert await store.delete_prefix(BUCKET, "indices/pages/") == 1005
    assert [each async for each in store.list(BUCKET, "indices/pages/")] == []


async def test_everything_of_everybody_is_not_deleted(store):
    with pytest.raises(ValueError, match="refusing"):
        await store.delete_prefix(BUCKET, "indices/")


async def test_a_file_of_several_parts_comes_back_whole(store, tmp_path):
    data = bytes(range(256)) * (80_000)  # 20 MB: three parts
    (tmp_path / "up").write_bytes(data)
    await store.upload(BUCKET, "indices/acme/big", tmp_path / "up")
    await store.download(BUCKET, "indices/acme/big", tmp_path / "down", sha256=hashlib.sha256(data).hexdigest())
    assert (tmp_path / "down").read_bytes() == data
    with pytest.raises(TryAgain) as said:
        await store.download(BUCKET, "indices/acme/big", tmp_path / "down", sha256="0" * 64)
    assert said.value.code == "checksum_mismatch"
    with pytest.raises(GiveUp) as gave:
        await store.download(BUCKET, "indices/acme/big", tmp_path / "down", limit=1000)
    assert gave.value.code == "object_too_large"


async def test_ends_of_a_file_can_be_read_alone(store):
    await store.put(BUCKET, "indices/acme/ends", b"PAR1 something PAR1")
    assert await store.peek(BUCKET, "indices/acme/ends", 4) == await store.peek(BUCKET, "indices/acme/ends", -4) == b"PAR1"
    assert await store.peek(BUCKET, "indices/acme/ends", 64) == b"PAR1 something PAR1"
    assert await store.get(BUCKET, "indices/acme/ends", limit=100) == b"PAR1 something PAR1"
    with pytest.raises(GiveUp):
        await store.get(BUCKET, "indices/acme/ends", limit=5)


async def test_what_is_not_there_may_come_later(store, tmp_path):
    for call in (
        store.get(BUCKET, "indices/acme/no", limit=5),
        store.peek(BUCKET, "indices/acme/no", 4),
        store.download(BUCKET, "no", tmp_path / "x"),
    ):
        with pytest.raises(ObjectMissing) as said:
            await call
        assert said.value.code == "object_missing"


async def test_nothing_is_written_without_the_lease(store):
    with in_hand(a_step("index", lease_held=lambda: False)), pytest.raises(LeaseLost):
        await store.put(BUCKET, "indices/acme/late", b"x")


async def test_a_wrong_key_is_named_and_shown_to_nobody(s3):
    wrong = s3.model_copy(update={"secret_key": SecretStr("canary")})
    async with open_objects(wrong) as store:
        with pytest.raises(GiveUp, match="access key") as said:
            await store.get(BUCKET, "indices/acme/ends", limit=100)
    assert said.value.code == "s3_forbidden"
    assert "canary" not in said.value.sentence


async def test_a_store_that_is_down_costs_no_attempt(s3, tmp_path: Path):
    async with open_objects(s3.model_copy(update={"endpoint": "http://127.0.0.1:9"})) as store:
        with pytest.raises(TryAgain) as said:
            await store.bucket_exists(BUCKET)
    assert (said.value.code, said.value.free, said.value.waiting_for) == ("s3_down", True, "s3")


@pytest_asyncio.fixture(loop_scope="module")
async def behind(s3: S3Settings) -> AsyncIterator[tuple[Store, ObjectStore]]:
    """The store as seen through a proxy that can spoil what goes through."""
    proxy = Store(*address(s3.endpoint or ""))
    await proxy.start(0)
    try:
        async with open_objects(s3.model_copy(update={"endpoint": f"http://127.0.0.1:{proxy.port}"})) as store:
            yield proxy, store
    finally:
        await proxy.stop()


READS = {
    "get": lambda store, folder: store.get(BUCKET, "indices/acme/spoilt", limit=1 << 20),
    "peek": lambda store, folder: store.peek(BUCKET, "indices/acme/spoilt", 1 << 19),
    "download": lambda store, folder: store.download(BUCKET, "indices/acme/spoilt", folder / "file"),
    "list": lambda store, folder: anext(store.list(BUCKET, "indices/acme/spoilt")),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("how", ["cut_short", "slow_downs"])
async def test_half_an_answer_or_none_is_tried_again_and_never_taken_for_the_whole(behind, how, read, tmp_path):
    proxy, store = behind
    await store.put(BUCKET, "indices/acme/spoilt", b"0123456789abcdef" * 50_000)
    whole = await read(store, tmp_path)
    setattr(proxy, how, 50)
    with pytest.raises(TryAgain) as said:
        await read(store, tmp_path)
    assert said.value.code in ("s3_error", "s3_down", "checksum_mismatch")
    assert proxy.done >= 1
    proxy.heal()
    assert await read(store, tmp_path) == whole
    setattr(proxy, how, 1)
    if how == "slow_downs":  # one of them is nothing that anybody has to hear of
        assert await read(store, tmp_path) == whole


async def test_data_that_arrives_is_seen_by_a_look_just_as_validate_sees_it(store):
    use = replace(a_house(), objects=store)
    rows = b'{"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": 1}\n'
    await store.put(TRAINING, "training-data/acme/latest/part-1.jsonl", rows * 2)
    await store.put(TRAINING, "training-data/acme/latest/_SUCCESS", b"")
    first = await look("acme", use)
    assert (first.fingerprint, list(first.files.values())) == ((await validate(requested(), use)).fingerprint, [2 * len(rows)])
    await store.put(TRAINING, "training-data/acme/latest/part-2.jsonl", rows * 3)
    second = await look("acme", use)
    assert second.fingerprint != first.fingerprint
    assert [second.files[name] for name in set(second.files) - set(first.files)] == [3 * len(rows)]
    assert (await look("globex", use)).files == {}
