"""The last net: no offset goes unaccounted for. Holes in what was read, and idle watermarks short of the log's end, are read again.

Faust may skip events when a rebalance meets a partition without a commit (docs/decisions/0003), and a worker may die between an
acknowledgement and its commit. A gap is closed as `reread`, `no_record` (there is nothing in it: control records, compaction)
or `expired` (retention took it: an alarm). Any worker may close any gap; reading an event twice is a no-op.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from streams import metrics
from streams.items import Arrived
from streams.ledger.connection import Connection, is_outage
from streams.ledger.ledger import Clocklike
from streams.settings import Settings

log = structlog.get_logger(__name__)

Take = Callable[[Arrived], Awaitable[None]]
Settle = Callable[[], Awaitable[None]]
"""Returns when nothing of what was taken before is only in memory."""
_QUIET_READS = 10
"""Fetches of a second each that bring nothing, though there is more, after which Kafka counts as away."""
_NOTE = """
select note_gap($1, $2, $3, $4) where not exists (select 1 from offsets where topic = $1 and partition = $2 and next > $3)
"""
"""Nothing, when another worker has closed it since we looked."""

_MARKS = """
select topic, partition, next, least(next, (
    select min(first) from gaps g where g.topic = o.topic and g.partition = o.partition and g.state = 'open')) as whole from offsets o
"""
"""`next`: what lies before it was read or is in a gap; `whole`: what lies before it was read."""

PATIENCE, AGAIN = 10.0, 2.0
"""Seconds that Kafka gets to tell the ends of its logs, and from a look without an answer to the next."""
LEASE = 20.0
"""Seconds for which a gap is one worker's to close. A longer reading goes on: that a second worker reads the same is a no-op."""
_LEASE = """
update gaps set lease_until = clock_timestamp() + make_interval(secs => $2) where (topic, partition, first) = (
    select topic, partition, first from gaps where state = 'open' and topic = any($1) and coalesce(lease_until, '-infinity') < clock_timestamp()
    order by array_position($1, topic), seen_at limit 1 for update skip locked) returning *
"""
_CLOSE = "select close_gap($1, $2, $3, $4, $5)"


class Look(NamedTuple):
    """What was seen of the logs' ends."""

    began: datetime
    ends: Mapping[TopicPartition, int]

    def reached(self, topic: str, whole: Mapping[tuple[str, int], int]) -> bool:
        """Whether everything is read that lay on the topic then."""
        return all(whole.get((topic, place.partition), 0) >= end for place, end in self.ends.items() if place.topic == topic)


class Gaps:
    """Finds and closes gaps on the topics that the agents read."""

    def __init__(self, settings: Settings, topics: list[str], take: Take, settle: Settle, clock: Clocklike) -> None:
        self._settings, self._topics, self._take, self._settle, self._clock = settings, topics, take, settle, clock
        self._partitions = [TopicPartition(topic, n) for topic in topics for n in range(settings.kafka.partitions)]
        self._connection = Connection(settings.ledger.dsn.get_secret_value(), name="tidemill-gaps")
        self._before: dict[tuple[str, int], int] = {}
        """The watermarks that were short of their end at the last look."""
        self._goals: dict[str, Look] = {}
        """The look of each topic whose ends are waited for: kept until they are reached, or a topic that is never quiet would never be caught up."""
        self._reached: dict[str, datetime] = {}
        """When the last look began whose ends a topic has reached."""
        self.outage: str | None = None
        """Why the last look did not get the ends of the logs: also a worker that publishes nothing notices that Kafka is away."""

    async def run(self) -> None:
        """Sweep until cancelled; outages are waited out."""
        while True:
            try:
                await self._sweep_with_consumer()
            except (KafkaError, OSError, AssertionError) as error:  # aiokafka asserts when its coordinator is gone
                log.debug("gap sweep without Kafka; trying again", error=repr(error))
                self.outage = repr(error)
                await asyncio.sleep(min(AGAIN, self._settings.runtime.sweep))
                continue
            except Exception as error:
                if not is_outage(error):
                    log.exception("gap sweep failed; trying again")
                await self._connection.drop()
            await asyncio.sleep(self._settings.runtime.sweep)

    async def close(self) -> None:
        await self._connection.close()

    def caught_up(self, topic: str, since: datetime) -> bool:
        """Whether all is read that lay on the topic at a look that began no earlier than `since` (both by the ledger's clock)."""
        reached = self._reached.get(topic)
        return reached is not None and reached >= since

    async def _sweep_with_consumer(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._settings.kafka.bootstrap, enable_auto_commit=False, auto_offset_reset="none")
        try:
            async with asyncio.timeout(PATIENCE):
                await consumer.start()
            consumer.assign(self._partitions)
            consumer.pause(*self._partitions)
            while True:
                await self.sweep(consumer)
                await asyncio.sleep(self._settings.runtime.sweep)
        finally:
            await consumer.stop()

    async def sweep(self, consumer: Any) -> None:
        """One look: note watermarks that were short of the end at the last one and have not moved, then close what is open."""
        began = self._clock.now()
        async with asyncio.timeout(PATIENCE):
            ends = await consumer.end_offsets(self._partitions)
        self.outage = None
        rows = await self._connection.fetch(_MARKS)
        self._see(Look(began, ends), {(row["topic"], row["partition"]): row["whole"] for row in rows})
        marks = {(row["topic"], row["partition"]): row["next"] for row in rows}
        before, self._before = self._before, {}
        for partition, end in ends.items():
            key = (partition.topic, partition.partition)
            mark = marks.get(key, 0)
            if mark >= end:
                continue
            self._before[key] = mark  # what comes is on its way at first, and the watermark of echoes may be held back for a while
            if before.get(key) == mark:
                log.warning(
                    "nobody read the end of a partition; reading it again", code="offset_gap", topic=key[0], partition=key[1], first=mark, past=end
                )
                await self._connection.fetch(_NOTE, *key, mark, end)
        while await self._close_one(consumer):
            pass

    def _see(self, look: Look, whole: Mapping[tuple[str, int], int]) -> None:
        for topic in self._topics:
            for goal in (self._goals.setdefault(topic, look), look):
                if goal.reached(topic, whole):
                    self._reached[topic], self._goals[topic] = goal.began, look

    async def _close_one(self, consumer: Any) -> bool:
        """Close one open gap that no other worker has in hand; False when there is none."""
        rows = await self._connection.fetch(_LEASE, self._topics, LEASE)
        if not rows:
            return False
        [row] = rows
        how = await self._read_again(consumer, TopicPartition(row["topic"], row["partition"]), row["first"], row["past"])
        await self._settle()
        await self._connection.fetch(_CLOSE, row["topic"], row["partition"], row["first"], row["past"], how)
        metrics.gaps.labels(row["topic"], how).inc()
        say = log.error if how == "expired" else log.info
        say("gap closed", code="offset_gap", how=how, topic=row["topic"], partition=row["partition"], first=row["first"], past=row["past"])
        return True

    async def _read_again(self, consumer: Any, partition: TopicPartition, first: int, past: int) -> str:
        start = (await consumer.beginning_offsets([partition]))[partition]
        lost = start > first
        if start >= past:
            return "expired"
        consumer.seek(partition, max(first, start))
        consumer.resume(partition)
        try:
            read, quiet, position = 0, 0, max(first, start)
            while position < past:
                records = (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
                quiet = 0 if records else quiet + 1
                if not records:
                    position = await consumer.position(partition)  # it moves over control records and what compaction took
                    if position < past and (await consumer.end_offsets([partition]))[partition] <= position:
                        lost = True  # the log is shorter than what was once read of it
                        break
                if quiet == _QUIET_READS and position < past:  # a broker that is away gives nothing either: that tells nothing of the records
                    raise KafkaTimeoutError(f"{partition.topic}/{partition.partition} gave nothing at {position}, though there is more up to {past}")
                for record in records:
                    position = record.offset + 1
                    if record.offset < past:
                        read += 1
                        await self._take(
                            Arrived(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, list(record.headers))
                        )
        finally:
            consumer.pause(partition)
        if lost:
            return "expired"
        return "reread" if read else "no_record"
