"""The object store as the pipelines speak of it: buckets of files, read and written with limits and checksums."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from streams.disk import room_in
from streams.settings import S3Settings
from streams.stage import GiveUp, TryAgain
from streams.step import current

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, UploadPartOutputTypeDef

CHUNK = 1 << 20
PART = 8 << 20
LARGEST_DOWNLOAD = 64 << 30
PATIENCE, LEAST_RATE = 60.0, 1 << 20
"""The time of one call: seconds for it to be answered, its repetitions by the client included, and one more for so many bytes sent or read."""


class Object(NamedTuple):
    """One object of a listing."""

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectMissing(TryAgain):
    """The object is not there, or not there yet: listings and copies may lag behind."""


class ObjectStore(Protocol):
    """S3, or what speaks like it."""

    async def bucket_exists(self, bucket: str) -> bool: ...

    def list(self, bucket: str, prefix: str) -> AsyncIterator[Object]:
        """All objects below a prefix in the order of their keys, page by page."""
        ...

    async def download(self, bucket: str, key: str, path: Path, *, sha256: str | None = None, limit: int = LARGEST_DOWNLOAD) -> None:
        """Write the object to a file; `TryAgain` `checksum_mismatch` when it is not the one expected, or not whole."""
        ...

    async def upload(self, bucket: str, key: str, path: Path) -> None:
        """Put a file, in parts when it is large."""
        ...

    async def put(self, bucket: str, key: str, data: bytes) -> None: ...

    async def get(self, bucket: str, key: str, *, limit: int) -> bytes:
        """The whole of a small object; one larger than `limit` is refused."""
        ...

    async def peek(self, bucket: str, key: str, count: int) -> bytes:
        """The first `count` bytes, or the last ones if `count` is negative."""
        ...

    async def delete_prefix(self, bucket: str, prefix: str) -> int:
        """Delete all objects below a prefix; how many there were."""
        ...


class S3ObjectStore:
    """The object store over aioboto3."""

    def __init__(self, client: "S3Client") -> None:
        self._s3 = client

    async def bucket_exists(self, bucket: str) -> bool:
        try:
            with _named(bucket):
                async with _in_time():
                    await self._s3.head_bucket(Bucket=bucket)
        except ObjectMissing:
            return False
        return True

    async def list(self, bucket: str, prefix: str) -> AsyncIterator[Object]:
        pages = aiter(self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
        while True:
            with _named(bucket, prefix):
                async with _in_time():  # a page's, not that of whoever takes what is on it
                    page = await anext(pages, None)
            if page is None:
                return
            for each in page.get("Contents", []):
                yield Object(each["Key"], each["Size"], each["ETag"].strip('"'), each["LastModified"])

    async def download(self, bucket: str, key: str, path: Path, *, sha256: str | None = None, limit: int = LARGEST_DOWNLOAD) -> None:
        digest = hashlib.sha256()
        size = 0
        with _named(bucket, key):
            async with _in_time() as time:
                answer = await self._s3.get_object(Bucket=bucket, Key=key)
                if answer["ContentLength"] > limit:
                    raise _too_large(bucket, key, limit)
                time.reschedule(_deadline(answer["ContentLength"]))
                with room_in(path.parent), await asyncio.to_thread(path.open, "wb") as file:
                    body = answer["Body"]
                    async with body:  # entering gives the bare HTTP response, which reads no sizes
                        while chunk := await body.read(CHUNK):
                            size += len(chunk)
                            await asyncio.to_thread(_take, chunk, file.write, digest.update)
        if size != answer["ContentLength"] or (sha256 is not None and digest.hexdigest() != sha256):
            raise TryAgain(
                f"s3://{bucket}/{key} is not the file that its manifest names ({size} bytes came); if it stays so, the file must be written again",
                code="checksum_mismatch",
            )

    async def upload(self, bucket: str, key: str, path: Path) -> None:
        with await asyncio.to_thread(path.open, "rb") as file:
            first = await asyncio.to_thread(file.read, PART)
            if len(first) < PART:
                await self.put(bucket, key, first)
                return
            with _named(bucket, key):
                await self._in_parts(bucket, key, first, file)

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        _check_lease()
        with _named(bucket, key):
            async with _in_time(len(data)):
                await self._s3.put_object(Bucket=bucket, Key=key, Body=BytesIO(data))

    async def _in_parts(self, bucket: str, key: str, part: bytes, file: BinaryIO) -> None:
        """A multipart upload; one that fails is taken back, so that its parts do not lie around for ever."""
        async with _in_time():
            upload = (await self._s3.create_multipart_upload(Bucket=bucket, Key=key))["UploadId"]
        size = 0
        try:
            done: list[CompletedPartTypeDef] = []
            while part:
                _check_lease()
                number = len(done) + 1
                async with _in_time(len(part)):
                    answer = await self._s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=BytesIO(part))
                done.append(_part(number, answer))
                size += len(part)
                part = await asyncio.to_thread(file.read, PART)
            async with _in_time(size):  # the store may put the parts together before it answers
                await self._s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            with suppress(ClientError, BotoCoreError, TimeoutError):
                async with _in_time():
                    await self._s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            raise

    async def get(self, bucket: str, key: str, *, limit: int) -> bytes:
        with _named(bucket, key):
            async with _in_time() as time:
                answer = await self._s3.get_object(Bucket=bucket, Key=key)
                if answer["ContentLength"] > limit:
                    raise _too_large(bucket, key, limit)
                time.reschedule(_deadline(answer["ContentLength"]))
                async with answer["Body"] as body:
                    return await body.read()

    async def peek(self, bucket: str, key: str, count: int) -> bytes:
        wanted = f"bytes=0-{count - 1}" if count > 0 else f"bytes={count}"
        with _named(bucket, key):
            async with _in_time(abs(count)):
                answer = await self._s3.get_object(Bucket=bucket, Key=key, Range=wanted)
                missing, data = min(abs(count), answer["ContentLength"]), b""
                async with answer["Body"] as body:
                    while missing and (chunk := await body.content.read(missing)):  # as much as is there, which may be less
                        data, missing = data + chunk, missing - len(chunk)
        if missing:
            raise TryAgain(f"s3://{bucket}/{key}: the object store sent too little; look at its log", code="s3_error")
        return data

    async def delete_prefix(self, bucket: str, prefix: str) -> int:
        if prefix.count("/") < 2:
            raise ValueError(f"refusing to delete everything below {prefix!r}: a prefix to delete names at least a root and a tenant")
        page: list[str] = []
        deleted = 0
        async for each in self.list(bucket, prefix):
            page.append(each.key)
            if len(page) == 1000:  # as many as one request takes
                deleted += await self._delete(bucket, page)
                page = []
        return deleted + (await self._delete(bucket, page) if page else 0)

    async def _delete(self, bucket: str, keys: Sequence[str]) -> int:
        with _named(bucket):
            async with _in_time():
                answer = await self._s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        if failed := answer.get("Errors"):
            raise TryAgain(f"{len(failed)} of {len(keys)} objects in {bucket} could not be deleted ({failed[0].get('Code')})", code="s3_error")
        return len(keys)


def _part(number: int, answer: "UploadPartOutputTypeDef") -> "CompletedPartTypeDef":
    """What completes the upload names of a part: its number, its ETag and, where the store checked one, its checksum."""
    part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
    if "ChecksumCRC32" in answer:
        part["ChecksumCRC32"] = answer["ChecksumCRC32"]
    return part


def _take(chunk: bytes, *sinks: object) -> None:
    for sink in sinks:
        sink(chunk)  # type: ignore[operator]


def _check_lease() -> None:
    if step := current.get():
        step.check_lease()


def _too_large(bucket: str, key: str, limit: int) -> GiveUp:
    return GiveUp(f"s3://{bucket}/{key} is larger than {limit} bytes, which nothing of ours is; find out who wrote it", code="object_too_large")


def _in_time(size: int = 0) -> asyncio.Timeout:
    """The whole time of a call: the client's own limits begin anew with each byte that comes."""
    return asyncio.timeout_at(_deadline(size))


def _deadline(size: int) -> float:
    return asyncio.get_running_loop().time() + PATIENCE + size / LEAST_RATE


@contextmanager
def _named(bucket: str, key: str = "") -> Iterator[None]:
    """Turn the client's errors into the two words for failure, with a code and what to do."""
    where = f"s3://{bucket}/{key}"
    try:
        yield
    except (EndpointConnectionError, ConnectTimeoutError, ConnectionClosedError) as error:
        sentence = "the object store cannot be reached; look at it and at TIDEMILL_S3__ENDPOINT"
        raise TryAgain(sentence, code="s3_down", free=True, waiting_for="s3") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise GiveUp("there are no credentials for the object store; set TIDEMILL_S3__ACCESS_KEY and …SECRET_KEY", code="s3_forbidden") from error
    except ClientError as error:
        raise _answer(error, where) from error
    except (ReadTimeoutError, BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise TryAgain(f"{where}: the object store broke off ({type(error).__name__}); look at its log", code="s3_error") from error


def _answer(error: ClientError, where: str) -> TryAgain | GiveUp:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", "")
    if status == 404:
        return ObjectMissing(f"{where} is not there; put it there, then `tidemill retry` the run", code="object_missing")
    if status in (401, 403):
        return GiveUp(f"{where}: the object store refuses us ({code}); check the access key and the bucket's policy", code="s3_forbidden")
    return TryAgain(f"{where}: the object store answered {status} ({code}); look at its log", code="s3_error")


@asynccontextmanager
async def open_objects(settings: S3Settings) -> AsyncIterator[ObjectStore]:
    """A client that connects when first needed; buckets are named in the path, as local stores want it."""
    secret = {name: value.get_secret_value() if value else None for name, value in (("id", settings.access_key), ("key", settings.secret_key))}
    config = AioConfig(
        s3={"addressing_style": "path"},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=64,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    async with aioboto3.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=secret["id"],
        aws_secret_access_key=secret["key"],
        config=config,
    ) as client:
        yield S3ObjectStore(client)
