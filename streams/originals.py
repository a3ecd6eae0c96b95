"""Where a dead letter's record was first read, for `redrive`: an event without an id of its own is known by cluster, place and time.

The time is read from Kafka. A record that retention took cannot be read twice any more, so then any time will do.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from schemas.context import Origin
from streams.kafka import open_admin
from streams.ledger.rows import DeadRecord
from streams.settings import KafkaSettings

_PATIENCE = 5.0


class Originals:
    """Looks records up again by their place."""

    def __init__(self, consumer: AIOKafkaConsumer, cluster: str) -> None:
        self._consumer, self._cluster = consumer, cluster

    async def origin(self, record: DeadRecord) -> Origin:
        letter = record.letter
        return Origin(self._cluster, letter.topic, letter.partition, letter.offset, await self._time(record))

    async def _time(self, record: DeadRecord) -> int:
        place = TopicPartition(record.letter.topic, record.letter.partition)
        self._consumer.assign([place])
        if not (await self._consumer.beginning_offsets([place]))[place] <= record.letter.offset < (await self._consumer.end_offsets([place]))[place]:
            return 0
        self._consumer.seek(place, record.letter.offset)
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._consumer.getone(place)
        except (TimeoutError, OffsetOutOfRangeError):
            return 0
        same = found.offset == record.letter.offset and sha256(found.value or b"").digest() == record.sha256
        return int(found.timestamp) if same else 0


@asynccontextmanager
async def open_originals(settings: KafkaSettings) -> AsyncIterator[Originals]:
    """Raises KafkaError when Kafka is not there."""
    async with open_admin(settings) as admin:
        cluster = str((await admin.describe_cluster())["cluster_id"])
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap, enable_auto_commit=False, auto_offset_reset="none", max_partition_fetch_bytes=3 << 20
    )
    try:
        await consumer.start()
        yield Originals(consumer, cluster)
    except AssertionError as error:  # aiokafka asserts when its coordinator is gone
        raise KafkaError(str(error)) from error
    finally:
        await consumer.stop()
