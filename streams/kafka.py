"""Plain Kafka clients for what Faust does not do: the outbox's producer and the boot check."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.settings import KafkaSettings
from streams.topics import MAX_BYTES, declared, differences

log = structlog.get_logger(__name__)


class TopicsWrong(Exception):
    """The broker's topics are not as declared: consuming would silently see nothing, or the wrong partitions."""


@asynccontextmanager
async def open_admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for a few calls: one that is kept over a broker's restart breaks."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap, request_timeout_ms=10_000)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def open_producer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer, acks=all. Not idempotent: after an outage longer than its timeout that one never sends again (facts B3); readers dedupe."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, acks="all", enable_idempotence=False, linger_ms=0, max_request_size=MAX_BYTES, request_timeout_ms=20_000
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def wait_for_cluster(settings: KafkaSettings) -> str:
    """The cluster's id once it answers and has every topic as declared; waits for the broker, not for the topics."""
    said = False
    while True:
        try:
            async with open_admin(settings) as admin:
                cluster = await admin.describe_cluster()
                wrong = [line for line in await differences(admin, declared(settings)) if " partitions, " in line or " missing" in line]
        except (KafkaError, OSError) as error:
            if not said:
                log.warning("Kafka does not answer; waiting for it", code="kafka_away", bootstrap=settings.bootstrap, error=repr(error))
                said = True
            await asyncio.sleep(0.5)
            continue
        if wrong:
            raise TopicsWrong("; ".join(wrong))
        return str(cluster["cluster_id"])
