"""Reads what lies on Kafka, as a plain reader without a group: which of our events, and how often."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner

from schemas.tenant import is_tenant_id
from streams.names import OURS
from streams.settings import KafkaSettings
from streams.topics import MAX_BYTES

PATIENCE = 30.0
"""Seconds without a record, with records still to come, after which Kafka counts as away."""


class Published:
    """Our events on some partitions: event id -> how often, and its journal number; run -> its event ids with their topics; tenant -> its runs."""

    def __init__(self) -> None:
        self.times: dict[UUID, int] = defaultdict(int)
        self.sequence: dict[UUID, int] = {}
        self.of_run: dict[UUID, dict[UUID, str]] = defaultdict(dict)
        self.of_tenant: dict[str, set[UUID]] = defaultdict(set)

    def take(self, topic: str, headers: Iterable[tuple[str, bytes]], key: bytes | None = None) -> None:
        facts = dict(headers)
        if facts.get("ce_source") != OURS.encode():
            return
        try:
            event = UUID(facts["ce_id"].decode())
            run = UUID(facts["ce_subject"].decode()) if "ce_subject" in facts else None
        except (KeyError, ValueError):
            return  # whoever published it only says that it is ours; the inbox makes a dead letter of it
        self.times[event] += 1
        if (number := facts.get("ce_sequence", b"")).isdigit():
            self.sequence[event] = int(number)
        if run is not None:
            self.of_run[run][event] = topic
            if is_tenant_id(tenant := (key or b"").decode(errors="replace")):
                self.of_tenant[tenant].add(run)


def partition_of(tenant_id: str, partitions: int) -> int:
    """Where the producer puts a tenant's events."""
    every = list(range(partitions))
    return int(DefaultPartitioner()(tenant_id.encode(), every, every))


async def read(settings: KafkaSettings, topics: Sequence[str], partition: int, since: datetime | None = None) -> Published:
    """All of these topics' records of one partition, from `since` or the log's start, to the ends of this moment."""
    published = Published()
    await scan(settings, topics, partition, lambda record: published.take(record.topic, record.headers, record.key), since=since)
    return published


async def scan(
    settings: KafkaSettings,
    topics: Sequence[str],
    partition: int,
    take: Callable[[ConsumerRecord], None],
    *,
    since: datetime | None = None,
    last: int | None = None,
) -> dict[str, tuple[int, int]]:
    """Hand over one partition's records, all or those from `since` or only the `last` so many; gives each topic's offsets [log's start, end)."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MAX_BYTES,
        request_timeout_ms=20_000,
    )
    await consumer.start()
    try:
        there = await consumer.topics()  # asking after the offsets of one that is missing would only time out
        places = [TopicPartition(topic, partition) for topic in topics if topic in there]
        consumer.assign(places)
        firsts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place, start in (await _starts(consumer, places, since)).items():
            consumer.seek(place, min(start if last is None else max(start, ends[place] - last), ends[place]))
        await _read_on(consumer, ends, take)
    finally:
        await consumer.stop()
    return {place.topic: (firsts[place], ends[place]) for place in places}


async def _starts(consumer: AIOKafkaConsumer, places: list[TopicPartition], since: datetime | None) -> dict[TopicPartition, int]:
    if since is None:
        return dict(await consumer.beginning_offsets(places))
    found = await consumer.offsets_for_times(dict.fromkeys(places, int(since.timestamp() * 1000)))
    ends = await consumer.end_offsets(places)
    return {place: found[place].offset if found.get(place) else ends[place] for place in places}


async def _read_on(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], take: Callable[[ConsumerRecord], None]) -> None:
    """A position moves over control records too, so it is what says that the end is reached."""
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while open_ := [place for place, end in ends.items() if await consumer.position(place) < end]:
        batches = await consumer.getmany(*open_, timeout_ms=500)
        for place, records in batches.items():
            for record in records:
                if record.offset < ends[place]:
                    take(record)
        if batches:
            heard = loop.time()
        elif loop.time() - heard > PATIENCE:
            left = ", ".join(f"{place.topic}/{place.partition}" for place in open_)
            raise KafkaTimeoutError(f"{left} gave nothing for {PATIENCE:g} s, though there is more")
