"""The object store as the neighbours see it: list, fetch to a file, put from a file."""

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from reference.errors import Failed
from reference.settings import ReferenceSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Object(NamedTuple):
    """One object of a listing."""

    key: str
    size: int


class Store(Protocol):
    """S3, or what a test takes for it. Failures are `Failed` with `no_bucket`, `no_object` or `store_unavailable`."""

    async def objects(self, bucket: str, prefix: str) -> list[Object]: ...

    async def fetch(self, bucket: str, key: str, file: Path) -> None: ...

    async def put(self, bucket: str, key: str, file: Path) -> None: ...


class S3Store:
    """S3 through aioboto3, one client for the life of the service."""

    def __init__(self, settings: ReferenceSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._context: Any = None

    async def __aenter__(self) -> Self:
        s = self._settings
        access, secret = (key.get_secret_value() or None for key in (s.s3_access_key, s.s3_secret_key))
        session = aioboto3.Session(access, secret, region_name=s.s3_region)
        config = AioConfig(
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=5,
            read_timeout=20,
            max_pool_connections=16,
        )
        self._context = session.client("s3", endpoint_url=s.s3_endpoint, config=config)
        self._client = await self._context.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._context.__aexit__(kind, error, trace)

    async def objects(self, bucket: str, prefix: str) -> list[Object]:
        found: list[Object] = []
        try:
            pages: AsyncIterator[Any] = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            async for page in pages:
                found += [Object(entry["Key"], entry["Size"]) for entry in page.get("Contents", ())]
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise _named(error, bucket, prefix) from error
        return found

    async def fetch(self, bucket: str, key: str, file: Path) -> None:
        part = file.with_name(file.name + ".part")
        try:
            reply = await self._client.get_object(Bucket=bucket, Key=key)
            with part.open("wb") as out:
                async with reply["Body"] as body:
                    async for chunk in body.content.iter_chunked(1 << 20):
                        await asyncio.to_thread(out.write, chunk)
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise _named(error, bucket, key) from error
        os.replace(part, file)  # a rename, done at once

    async def put(self, bucket: str, key: str, file: Path) -> None:
        try:
            await self._client.upload_file(str(file), bucket, key)
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise _named(error, bucket, key) from error


def _named(error: Exception, bucket: str, key: str) -> Failed:
    """The error as a code and a sentence; what the store itself said may hold addresses and stays in the chain."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return Failed("no_bucket", f"the bucket {bucket} does not exist; create it or correct data_source.bucket")
    if code in {"NoSuchKey", "404"}:
        return Failed("no_object", f"{key} is not in the bucket {bucket}")
    return Failed("store_unavailable", f"the object store did not serve {key} of {bucket} ({code or type(error).__name__})")
