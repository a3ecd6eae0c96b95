"""The check of each dependency that the settings name, for `/readyz` and the health strip of the pages."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx
import redis.asyncio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.clients.objects import ObjectStore, open_objects
from streams.kafka import open_admin
from streams.ledger.connection import Connection
from streams.settings import KafkaSettings, NeighbourSettings, Settings
from streams.topics import declared
from streams.web.health import PATIENCE, Check, Health, Unwell


@asynccontextmanager
async def open_health(settings: Settings, *, table: Check) -> AsyncIterator[Health]:
    """The checks of everything the settings name; no client connects before it is first asked. `table`: is the live view whole?"""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE, trust_env=False))
        kafka = KafkaCheck(settings.kafka)
        stack.push_async_callback(kafka.close)
        cache = redis.asyncio.Redis.from_url(settings.redis.url.get_secret_value(), socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE)
        stack.push_async_callback(cache.aclose)
        objects = await stack.enter_async_context(open_objects(settings.s3))

        async def ping() -> None:
            await cache.ping()

        yield Health(
            {
                "kafka": kafka,
                "ledger": _database(stack, settings.ledger.dsn.get_secret_value(), "select 1 from tenants limit 1"),
                "warehouse": _database(stack, settings.warehouse.dsn.get_secret_value(), "select 1"),
                "redis": ping,
                "s3": lambda: _bucket(objects, settings.s3.training_bucket),
                "table": table,
            },
            {name: _http(http, getattr(settings, name)) for name in ("ml_engine", "inference", "monitoring")},
            secrets=_secrets(settings),
        )


class KafkaCheck:
    """The broker answers and has every topic. The client is kept while it works; one that is kept over a broker's restart breaks."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._names = {topic.name for topic in declared(settings)}
        self._stack: AsyncExitStack | None = None
        self._admin: AIOKafkaAdminClient | None = None

    async def __call__(self) -> None:
        try:
            missing = self._names - set(await (await self._client()).list_topics())
        except KafkaError as error:
            await self.close()
            raise Unwell(f"{self._settings.bootstrap} does not answer: {error}") from error
        except BaseException:
            await self.close()
            raise
        if missing:
            raise Unwell(f"{len(missing)} topics are missing, {min(missing)} among them; run `tidemill init`")

    async def _client(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            self._stack = AsyncExitStack()
            self._admin = await self._stack.enter_async_context(open_admin(self._settings))
        return self._admin

    async def close(self) -> None:
        stack, self._stack, self._admin = self._stack, None, None
        if stack is not None:
            await stack.aclose()


def _database(stack: AsyncExitStack, dsn: str, sql: str) -> Check:
    connection = Connection(dsn, statement_timeout=PATIENCE, name="tidemill-health")
    stack.push_async_callback(connection.close)

    async def check() -> None:
        try:
            await connection.value(sql)
        except ConnectionError as error:
            raise Unwell(f"nobody answers at {httpx.URL(dsn).netloc.decode().rpartition('@')[2]}") from error
        except asyncpg.UndefinedTableError as error:
            raise Unwell("its tables are missing; run `tidemill init`") from error

    return check


async def _bucket(objects: ObjectStore, bucket: str) -> None:
    if not await objects.bucket_exists(bucket):
        raise Unwell(f"the bucket {bucket} is missing; run `tidemill init`")


def _http(http: httpx.AsyncClient, settings: NeighbourSettings) -> Check:
    """A neighbour is there when it answers anything below 500: not every one has a health page."""

    async def check() -> None:
        try:
            answer = await http.get(f"{settings.url.rstrip('/')}/healthz")
        except httpx.TransportError as error:
            raise Unwell(f"nobody answers at {settings.url}") from error
        if answer.status_code >= 500:
            raise Unwell(f"{settings.url} answers {answer.status_code}")

    return check


def _secrets(settings: Settings) -> list[str]:
    """What may never be part of a reason."""
    values = [settings.ledger.dsn, settings.warehouse.dsn, settings.redis.url, settings.s3.secret_key, settings.s3.access_key]
    whole = [value.get_secret_value() for value in values if value is not None]
    passwords = [httpx.URL(text).password for text in whole if "://" in text]
    return [*whole, *passwords]
