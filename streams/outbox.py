"""The only way out: rows that a transaction left in the outbox go to Kafka (acks=all, awaited) and are then taken away.

Rows of this worker's own commits are published from memory at once; a sweep publishes what a crash or an outage left behind.
Readers dedupe by event id, so publishing twice is allowed and publishing never is not.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

import orjson
import structlog
from aiokafka.errors import InvalidTopicError, KafkaError, MessageSizeTooLargeError, UnknownTopicOrPartitionError

from schemas.cloudevents import Record
from schemas.context import NAMESPACE, Meta, to_headers
from schemas.tenant import is_tenant_id
from streams import metrics
from streams.faultpoints import point
from streams.ledger.connection import Connection, is_outage
from streams.names import OURS

log = structlog.get_logger(__name__)

Row = dict[str, Any]
STATE_TOPIC = "run.state"
DEAD_TOPIC = "dead.letters"
LEFT_BEHIND = 3.0
"""Seconds after which a row is taken for left behind by its worker."""
_LEFT_BEHIND = """
select to_jsonb(o) from outbox o
where created_at < clock_timestamp() - make_interval(secs => $1) order by id limit $2 for update skip locked
"""
_FOR_GOOD = (MessageSizeTooLargeError, InvalidTopicError, UnknownTopicOrPartitionError)


class Producer(Protocol):
    """aiokafka's producer, as far as we use it: a plain one, acks=all, not idempotent (that one dies for good in a long outage)."""

    async def send(self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None) -> "asyncio.Future[Any]": ...


class Outbox:
    """Publishes outbox rows and removes them once Kafka has them."""

    def __init__(self, producer: Producer, connection: Connection, sweeping: Connection, *, most: int = 500, in_memory: int = 20_000) -> None:
        self._producer, self._connection, self._sweeping = producer, connection, sweeping
        self._most, self._in_memory = most, in_memory
        self._rows: deque[Row] = deque()
        self._published: list[int] = []
        self._in_hand: set[int] = set()
        self._wake, self._done = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self.recent = RecentIds()
        """Ids this worker published lately: their echoes need no look-up."""
        self.outage: str | None = None

    def publish(self, rows: Sequence[Row]) -> None:
        """Publish rows that are already durable; beyond the bound they are left to the sweep."""
        for row in rows:
            if len(self._rows) >= self._in_memory:
                return
            self._in_hand.add(row["id"])
            self._rows.append(row)
        self._wake.set()

    async def run(self) -> None:
        """Publish from memory until stopped; what goes wrong here is left to the sweep."""
        while True:
            if not self._rows:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = [self._rows.popleft() for _ in range(min(self._most, len(self._rows)))]
            try:
                self._published += await self._send(batch)
                point("outbox.published")
                self._done.set()
            except Exception as error:
                log.warning("rows are left to the outbox's sweep", rows=len(batch), error=repr(error))
            finally:
                self._in_hand.difference_update(row["id"] for row in batch)

    async def run_removal(self) -> None:
        """Take published rows away, many at a time; a row that stays after a crash is published again, which is harmless."""
        while True:
            await self._done.wait()
            self._done.clear()
            ids, self._published = self._published, []
            try:
                if ids:
                    await self._connection.fetch("delete from outbox where id = any($1)", ids)
            except Exception as error:
                if not is_outage(error):
                    log.exception("published rows could not be taken away; trying again")
                await self._connection.drop()
                self._published += ids
                await asyncio.sleep(0.5)
                self._done.set()
                continue
            if self._stopping and not self._rows and not self._published:
                return
            await asyncio.sleep(0.02)  # a pause in which more ids gather: one statement for many

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._done.set()

    async def sweep(self) -> int:
        """Publish rows that nobody published for `LEFT_BEHIND` seconds; how many. Rows in another worker's sweep are passed over."""
        async with self._sweeping.transaction() as raw:
            found = await raw.fetch(_LEFT_BEHIND, LEFT_BEHIND, self._most)
            rows = [row[0] for row in found if row[0]["id"] not in self._in_hand]
            sent = await self._send(rows)
            if sent:
                await raw.execute("delete from outbox where id = any($1)", sent)
            return len(sent)

    async def _send(self, rows: Sequence[Row]) -> list[int]:
        """Send rows in order; gives the ids of those that Kafka acknowledged."""
        dead = await self._dead_letters(rows)
        waiting: list[tuple[Row, list[asyncio.Future[Any]]]] = []
        sent: list[int] = []
        for row in rows:
            try:
                waiting.append((row, [await self._producer.send(t, r.value, r.key, headers=r.headers) for t, r in records(row, dead)]))
            except _FOR_GOOD as error:
                await self._set_aside(row, error)
            except KafkaError as error:
                self._failed(error)
        for row, futures in waiting:
            try:
                await asyncio.gather(*futures)
            except _FOR_GOOD as error:
                await self._set_aside(row, error)
                continue
            except KafkaError as error:
                self._failed(error)
                continue
            self.outage = None
            sent.append(row["id"])
            if row["topic"]:
                self.recent.add(UUID(row["event_id"]))
                metrics.events_published.labels(row["topic"]).inc()
        return sent

    def _failed(self, error: KafkaError) -> None:
        metrics.outbox_failures.inc()
        if self.outage is None:
            log.warning("Kafka does not acknowledge; rows stay in the outbox and are sent again", error=repr(error))
        self.outage = repr(error)

    async def _set_aside(self, row: Row, error: Exception) -> None:
        """The broker refuses this row for good: it is kept beside, and the rest goes on."""
        log.error(
            "an event cannot be published; it is in the table unpublishable",
            code="unpublishable",
            topic=row["topic"],
            event=row["event_id"],
            error=repr(error),
        )
        sql = "with gone as (delete from outbox where id = $1 returning *) insert into unpublishable select gone.*, clock_timestamp(), $2 from gone"
        await self._connection.fetch(sql, row["id"], repr(error)[:500])

    async def _dead_letters(self, rows: Sequence[Row]) -> dict[str, Row]:
        ids = [UUID(row["event_id"]) for row in rows if row["topic"] == DEAD_TOPIC]
        if not ids:
            return {}
        found = await self._connection.fetch("select * from dead_letters where id = any($1)", ids)
        return {str(row["id"]): dict(row) for row in found}


def records(row: Row, dead: dict[str, Row] | None = None) -> list[tuple[str, Record]]:
    """The Kafka records that one outbox row stands for: its event, and the run's state for `run.state`."""
    if row["topic"] == DEAD_TOPIC:
        letter = (dead or {}).get(row["event_id"])
        return [(DEAD_TOPIC, dead_record(letter))] if letter else []
    tenant, run = row["tenant_id"], UUID(row["run_id"]) if row["run_id"] else None
    made: list[tuple[str, Record]] = []
    at = datetime.fromisoformat(row["at"])
    if row["topic"]:
        made.append((row["topic"], _record(row, UUID(row["event_id"]), row["topic"], row["value"], tenant, run, at)))
    if row["state"]:
        made.append(
            (STATE_TOPIC, _record(row, uuid5(NAMESPACE, f"state\n{row['event_id']}\n{row['seq']}"), STATE_TOPIC, row["state"], tenant, run, at))
        )
    return made


def _record(row: Row, event: UUID, topic: str, value: str, tenant: str, run: UUID | None, at: datetime) -> Record:
    causation = UUID(row["causation"]) if row["causation"] else None
    meta = Meta(id=event, type=topic, source=OURS, time=at, causation=causation, sequence=row["seq"], traceparent=row["traceparent"])
    return Record(tenant.encode(), value.encode(), to_headers(meta, run, tenant if is_tenant_id(tenant) else None))


def dead_record(letter: Row) -> Record:
    """A dead letter on its topic: the raw bytes as the value, the facts in headers."""
    facts = {
        "ce_specversion": "1.0",
        "ce_id": str(letter["id"]),
        "ce_type": DEAD_TOPIC,
        "ce_source": OURS,
        "ce_time": letter["at"].astimezone(UTC).isoformat(),
        "dead_topic": letter["topic"],
        "dead_partition": str(letter["partition"]),
        "dead_offset": str(letter["offset"]),
        "dead_code": letter["code"],
        "dead_sentence": letter["sentence"],
        "dead_size": str(letter["size"]),
        "dead_sha256": letter["sha256"].hex(),
    }
    if letter["tenant_id"]:
        facts["ce_tenantid"] = letter["tenant_id"]
    headers = [(name, text.encode()) for name, text in facts.items()]
    return Record(letter["key"] or b"", letter["value"] or b"", [*headers, ("dead_headers", orjson.dumps(letter["headers"]))])


def header_facts(headers: Sequence[tuple[str, bytes]]) -> list[list[str]]:
    """Headers as the ledger keeps them: names as text, values in base64, bounded."""
    return [[name[:200], base64.b64encode(value[:4096]).decode()] for name, value in list(headers)[:64]]


class RecentIds:
    """A bounded memory of event ids."""

    def __init__(self, most: int = 50_000) -> None:
        self._ids: dict[UUID, None] = {}
        self._most = most

    def add(self, event: UUID) -> None:
        self._ids[event] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, event: UUID) -> bool:
        return event in self._ids
