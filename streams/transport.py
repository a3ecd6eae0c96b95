"""Faust as the transport: one agent a topic, each record handed to the inbox, its offset acknowledged once the ledger has it."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import structlog

from streams import seek_patch
from streams.items import Arrived
from streams.ledger.groupcommit import Stopped
from streams.settings import Settings
from streams.skim import Skim, SkimmingTransport, arrived

log = structlog.get_logger(__name__)

Take = Callable[[Arrived], Awaitable[None]]
SESSION = 20
"""Seconds that Kafka keeps the partitions of a worker of which it hears nothing."""
WINDOW = 16
"""Records of one topic on their way into the ledger at a time; acknowledged strictly in their order."""
READ_AHEAD = 1000
READ_AHEAD_BYTES = 4 << 20
"""Records of one topic that are read and wait for their turn: Faust stops at the first buffer that is full, and a crowd on one topic is to keep
nobody on another waiting."""


def make_app(settings: Settings, *, slot: int, app_class: type[faust.App] = faust.App, skim: Skim = lambda _: False) -> faust.App:
    """The app without tables, with the settings that were validated under faults (docs/decisions/0003); its agents get what `skim` leaves."""
    seek_patch.apply()
    kafka, pages = settings.kafka, settings.runtime.pages_port
    app = app_class(
        kafka.app_id,
        broker=[f"kafka://{address}" for address in kafka.bootstrap.split(",")],
        processing_guarantee="at_least_once",
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        producer_acks=-1,
        producer_request_timeout=60,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=kafka.partitions,
        topic_replication_factor=kafka.replication,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{kafka.app_id}-{slot}",
        broker_session_timeout=SESSION,
        broker_heartbeat_interval=2,
        broker_rebalance_timeout=60,
        broker_request_timeout=90,
        broker_max_poll_interval=10**6,
        broker_commit_interval=0.5,
        stream_buffer_maxsize=128,
        stream_wait_empty=True,
        consumer_metadata_max_age_ms=10_000,
        web_enabled=pages is not None,
        web_host=settings.web.host,
        web_port=pages + slot - 1 if pages else 6066,
        web_router_enabled=False,
        web_tables_enabled=False,
    )
    app.transport = SkimmingTransport(app.conf.broker_consumer, app, skim=skim)
    return app


def add_agents(app: faust.App, topics: list[str], take: Take, *, named: str = "inbox") -> None:
    """One agent for each topic, named after it."""
    for topic in topics:
        app.agent(app.topic(topic, key_type=bytes, value_type=bytes), name=f"{named}.{topic}", concurrency=1)(_reader(take))


def _reader(take: Take) -> Callable[[Any], Awaitable[None]]:
    async def read(stream: Any) -> None:
        """Hand records to the inbox, a window of them at a time, and acknowledge each when all before it are recorded."""
        ahead, turns = ReadAhead(), asyncio.Semaphore(WINDOW)
        acker = asyncio.create_task(_acknowledge(ahead))
        try:
            async for event in stream.noack().events():
                record = arrived(event.message)
                await ahead.room(len(record.value or b""))
                ahead.add(event, asyncio.create_task(_take(take, record, turns)), len(record.value or b""))
        finally:
            acker.cancel()

    return read


class ReadAhead:
    """Events of one topic that are read and not acknowledged yet, in their order."""

    def __init__(self) -> None:
        self._events: deque[tuple[Any, asyncio.Task[None], int]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    async def room(self, size: int) -> None:
        """Wait until one more of so many bytes may be read; a single one always may."""
        while self._events and (len(self._events) >= READ_AHEAD or self._bytes + size > READ_AHEAD_BYTES):
            await self._change()

    def add(self, event: Any, task: "asyncio.Task[None]", size: int) -> None:
        self._events.append((event, task, size))
        self._bytes += size
        self._changed.set()

    async def first(self) -> tuple[Any, "asyncio.Task[None]"]:
        """The oldest, as soon as there is one."""
        while not self._events:
            await self._change()
        event, task, _ = self._events[0]
        return event, task

    def drop_first(self) -> None:
        self._bytes -= self._events.popleft()[2]
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def _acknowledge(ahead: ReadAhead) -> None:
    while True:
        event, task = await ahead.first()
        if not task.done():
            await asyncio.wait({task})
        ahead.drop_first()
        event.ack()


async def _take(take: Take, record: Arrived, turns: asyncio.Semaphore) -> None:
    """Record it, or end the process: the one way not to acknowledge an event is to be gone."""
    try:
        async with turns:
            await take(record)
    except Stopped:
        log.warning("stopping while the ledger is away; unread events are read again at the next start", topic=record.topic)
        os._exit(1)
    except Exception:
        log.critical(
            "an event could not be recorded; the worker ends so that it is read again",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            exc_info=True,
        )
        os._exit(1)
