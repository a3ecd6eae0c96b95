"""Telling Kafka that a job has ended: at least once, under one event id a job, however often it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid5

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from reference.ml_engine.jobs import Job, Jobs
from schemas.cloudevents import Meta, Record, encode
from schemas.event import Event
from schemas.training import IndexBuilt, TrainingCompleted

log = logging.getLogger(__name__)
_EVENTS = UUID("2c3d9c06-50be-5f8e-8c43-55c5a3b0f5de")


class Producer(Protocol):
    """What is needed of a Kafka producer."""

    async def send_and_wait(self, topic: str, *, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> object: ...

    async def stop(self) -> None: ...


async def connect(bootstrap: str) -> Producer:
    """A producer that waits for all replicas; not idempotent, as that one does not recover from long outages: readers dedupe by event id."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False, request_timeout_ms=10_000)
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer  # type: ignore[no-any-return]  # aiokafka has no types


class Callbacks:
    """Sends what is owed, oldest first, until it is delivered."""

    def __init__(self, jobs: Jobs, open_producer: Callable[[], Awaitable[Producer]], *, pause: float = 1.0) -> None:
        self._jobs, self._open, self._pause = jobs, open_producer, pause
        self._wake = asyncio.Event()
        self._producer: Producer | None = None

    def wake(self) -> None:
        """A job has ended."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver for ever; Kafka being away only delays."""
        try:
            while True:
                self._wake.clear()
                if not await self._deliver():
                    await asyncio.sleep(self._pause)
                elif not await self._jobs.due():
                    await self._wake.wait()
        finally:
            await self._close()

    async def _deliver(self) -> bool:
        due = await self._jobs.due()
        try:
            if due and self._producer is None:
                self._producer = await self._open()
            await asyncio.gather(*(self._tell(job) for job in due))
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("Kafka does not take the callbacks of %d jobs (%s); trying again", len(due), type(error).__name__)
            await self._close()
            return False
        return True

    async def _tell(self, job: Job) -> None:
        record = message(job)
        if record is not None:
            assert self._producer is not None
            await self._producer.send_and_wait(record[0], value=record[1].value, key=record[1].key, headers=record[1].headers)
        await self._jobs.told(job.job_id)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()


def message(job: Job) -> tuple[str, Record] | None:
    """The topic and record that tell of an ended job; nothing for an index that was not built, as `index.built` would be a lie: polls tell."""
    event: Event
    if job.kind == "train":
        event = TrainingCompleted(
            tenant_id=job.tenant_id,
            job_id=job.job_id,
            status=job.status,
            model_path=job.target if job.status == "completed" else None,
            metrics=job.metrics or {},
            error=job.error,
        )
    elif job.status == "completed":
        event = IndexBuilt(tenant_id=job.tenant_id, job_id=job.job_id, **(job.metrics or {}))
    else:
        return None
    ended = datetime.fromisoformat(job.ended_at) if job.ended_at else datetime.now(UTC)
    meta = Meta(id=uuid5(_EVENTS, job.job_id), type=event.topic, source="ml-engine", time=ended, traceparent=job.context.get("traceparent"))
    return event.topic, encode(event, meta)
