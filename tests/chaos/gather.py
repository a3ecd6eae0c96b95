"""Gathers a snapshot from the real servers: the whole log of every topic, the ledger's tables, the neighbours' journals, S3."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aioboto3
import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from botocore.exceptions import ClientError

from streams.local.addresses import Addresses
from streams.settings import KafkaSettings
from streams.topics import declared
from tests.chaos.snapshot import Artefact, Place, Record, Row, Snapshot

TABLES = (
    "tenant_heads", "pipeline_heads", "journal", "runs", "causes", "steps", "jobs", "outbox", "unpublishable", "inbox", "offsets", "gaps",
    "effects", "workers", "versions", "dead_letters", "slots", "schedules",
)  # fmt: skip
COMMANDS = {"train": "/api/v1/train", "deploy": "/api/v1/deploy", "warm": "/api/v1/cache/warm"}
INDEX_COMMAND = {"index": "/api/v1/index/build"}
INDICES = "embeddings-indices"


class Log:
    """The log of all topics; each look reads on from where the last one ended."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.records: dict[str, list[Record]] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self._next: dict[TopicPartition, int] = {}
        self.cluster = ""

    async def read_on(self) -> None:
        """Everything up to the present ends."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20
        )
        await consumer.start()
        try:
            await self._read(consumer)
        finally:
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        partitions = [TopicPartition(topic.name, n) for topic in declared(KafkaSettings()) for n in range(topic.partitions)]
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, self._next.setdefault(partition, 0))
        while any(self._next[partition] < end for partition, end in ends.items()):
            for partition, found in (await consumer.getmany(timeout_ms=1000)).items():
                kept = self.records.setdefault(partition.topic, [])
                kept += [Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found]
                self._next[partition] = found[-1].offset + 1
        self.ends = {(partition.topic, partition.partition): end for partition, end in ends.items()}


class Gatherer:
    """Looks at everything, as often as it is asked."""

    def __init__(
        self, addresses: Addresses, *, cluster: str, read: frozenset[str], engine_index: bool, data: dict[str, tuple[int, int]],
        may_fail: frozenset[str],
    ) -> None:  # fmt: skip
        self._at, self._cluster, self._read, self._data, self._may_fail = addresses, cluster, read, data, may_fail
        self._commands = COMMANDS | (INDEX_COMMAND if engine_index else {})
        self._log = Log(addresses.kafka)

    async def snapshot(self, *, sent: list[Place], grace: timedelta, drained: bool) -> Snapshot:
        """One look; the ledger's tables in one transaction, the log afterwards, so that what the ledger says must be in it."""
        connection = await asyncpg.connect(self._at.postgres)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                tables = {name: await _table(connection, name) for name in TABLES}
                now = await connection.fetchval("select clock_timestamp()")
        finally:
            await connection.close()
        await self._log.read_on()
        live = [row for row in tables["versions"] if row["state"] == "live"]
        accepted, serving = await self._neighbours(live)
        return Snapshot(
            cluster=self._cluster,
            now=now,
            grace=grace,
            drained=drained,
            commands=self._commands,
            read=self._read,
            sent=sent,
            records=self._log.records,
            ends=self._log.ends,
            tables=tables,
            accepted=accepted,
            serving=serving,
            artefacts=await self._artefacts(live),
            data=self._data,
            may_fail=self._may_fail,
        )

    async def _neighbours(self, live: list[Row]) -> tuple[list[Row], dict[str, int]]:
        accepted: list[Row] = []
        serving: dict[str, int] = {}
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            for url in (self._at.ml_engine, self._at.inference, self._at.monitoring):
                accepted += (await http.get(f"{url}/journal")).raise_for_status().json()
            for tenant in {row["tenant_id"] for row in accepted if row["path"] == COMMANDS["deploy"]} | {row["tenant_id"] for row in live}:
                told = (await http.get(f"{self._at.inference}/api/v1/deployments/{tenant}")).json()
                if told["live"] is not None:
                    serving[tenant] = told["live"]
        return accepted, serving

    async def _artefacts(self, live: list[Row]) -> dict[str, Artefact]:
        async with _s3(self._at) as s3:
            return {row["index_path"]: await _artefact(s3, row["index_path"]) for row in live}


async def _table(connection: "asyncpg.Connection[Any]", name: str) -> list[Row]:
    """The rows of a table, jsonb as objects; a table that this version of the ledger does not have is empty."""
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    if not await connection.fetchval("select to_regclass($1)", name):
        return []
    return [{key: _aware(value) for key, value in row.items()} for row in await connection.fetch(f"select * from {name}")]


def _aware(value: Any) -> Any:
    """The driver gives infinite times without a zone."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


@asynccontextmanager
async def _s3(at: Addresses) -> AsyncIterator[Any]:
    session = aioboto3.Session(at.s3.access_key, at.s3.secret_key, region_name="us-east-1")
    async with session.client("s3", endpoint_url=at.s3.endpoint) as client:
        yield client


async def _artefact(s3: Any, path: str) -> Artefact:
    try:
        manifest = json.loads(await (await s3.get_object(Bucket=INDICES, Key=f"{path}/manifest.json"))["Body"].read())
    except ClientError:
        return Artefact(None, {}, {})
    found = {}
    for name in manifest["sha256"]:
        with suppress(ClientError):
            body = await (await s3.get_object(Bucket=INDICES, Key=f"{path}/{name}"))["Body"].read()
            found[name] = hashlib.sha256(body).hexdigest()
    return Artefact(manifest.get("tenant_id"), manifest["sha256"], found)
