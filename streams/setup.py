"""`tidemill init`: schema, topics, buckets, watermarks and schedules, each made if absent; running it again changes nothing."""

import asyncio

import aioboto3
import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from botocore.exceptions import ClientError

from streams.kafka import open_admin
from streams.ledger.migrate import migrate
from streams.pipelines import Pipelines
from streams.settings import S3Settings, Settings, load
from streams.topics import create, declared

log = structlog.get_logger(__name__)

DEFAULT_SCHEDULES = {"training-daily": ("training", "0 2 * * *"), "quality-6h": ("quality", "0 0,6,12,18 * * *")}
"""Name -> pipeline and cron, in UTC."""


async def initialise(settings: Settings, *, warehouse: bool = False) -> None:
    """Make what a fresh installation needs; `warehouse`: the watched tables too, as on a machine that has no other."""
    await asyncio.gather(asyncio.to_thread(migrate, settings.ledger.dsn.get_secret_value()), _topics(settings), _buckets(settings.s3))
    if warehouse:
        await load(settings.quality.tools).create_warehouse(settings)
    await _seed_offsets(settings)
    await _schedules(settings)


async def _topics(settings: Settings) -> None:
    async with open_admin(settings.kafka) as admin:
        if made := await create(admin, declared(settings.kafka)):
            log.info("topics created", count=len(made), partitions=settings.kafka.partitions)


async def _buckets(settings: S3Settings) -> None:
    secret = settings.secret_key.get_secret_value() if settings.secret_key else None
    access = settings.access_key.get_secret_value() if settings.access_key else None
    session = aioboto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, region_name=settings.region)
    async with session.client("s3", endpoint_url=settings.endpoint) as s3:
        for bucket in settings.buckets:
            try:
                await s3.head_bucket(Bucket=bucket)
            except ClientError:
                await s3.create_bucket(Bucket=bucket)
                log.info("bucket created", bucket=bucket)


async def _schedules(settings: Settings) -> None:
    """The usual times of the pipelines that are here, paused until somebody resumes them."""
    pipelines = Pipelines.load(settings).by_name
    connection = await asyncpg.connect(settings.ledger.dsn.get_secret_value())
    try:
        for name, (pipeline, cron) in DEFAULT_SCHEDULES.items():
            made = pipeline in pipelines and await connection.fetchval("select default_schedule($1, $2, $3, now())", name, pipeline, cron)
            if made:
                log.info("schedule created, paused", schedule=name, cron=cron)
    finally:
        await connection.close()


async def _seed_offsets(settings: Settings) -> None:
    """Each partition's watermark begins at the log's start, once: from there on no offset goes unaccounted for."""
    partitions = [TopicPartition(topic.name, number) for topic in declared(settings.kafka) for number in range(topic.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap)
    consumer.assign(partitions)  # else it learns of one topic at a time, a tenth of a second each
    await consumer.start()
    try:
        starts = await consumer.beginning_offsets(partitions)
    finally:
        await consumer.stop()
    connection = await asyncpg.connect(settings.ledger.dsn.get_secret_value())
    try:
        await connection.executemany(
            "insert into offsets (topic, partition, next) values ($1, $2, $3) on conflict do nothing",
            [(tp.topic, tp.partition, start) for tp, start in starts.items()],
        )
    finally:
        await connection.close()
