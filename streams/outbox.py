"""The only way out: rows that a transaction left in the outbox go to Kafka (acks=all, awaited) and are then taken away.

Rows of this worker's own commits are published from memory at once; a sweep publishes what a crash or an outage left behind.
A row says whose it is, so that nobody sweeps up what a worker that lives has in its queue.
Readers dedupe by event id, so publishing twice is allowed and publishing never is not.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import structlog
from aiokafka.errors import InvalidTopicError, KafkaError, MessageSizeTooLargeError, UnknownTopicOrPartitionError

from schemas.cloudevents import Record
from streams import journal, metrics
from streams.calmly import calmly
from streams.faultpoints import point
from streams.ledger.connection import Connection, is_outage
from streams.records import DEAD_TOPIC, STATE_TOPIC, Row, dead_record, event_record, state_record

log = structlog.get_logger(__name__)

LEFT_BEHIND = 3.0
"""Seconds after which a worker's row is taken for left behind, unless the worker lives and has it in hand."""
FORGOTTEN = 60.0
"""Seconds after which it is, whoever has it."""
STATES_EVERY = 0.2
"""Seconds for which changes of a run gather before its state is told."""
GATHERED = 0.025
"""Seconds for which events gather where nobody waits for their echo: the next stage's call goes first, and events share a request to Kafka."""
REMOVED_EVERY = 0.2
"""Seconds for which published rows gather before they are taken away: one statement, and a tenant's journal entries in one record."""
SENT_AT_ONCE = 16
"""Records that are made and handed to the producer before whoever else has something to do comes in between: two milliseconds' worth."""
Changed = dict[UUID, list[int]]
"""Runs whose state is to be told, with the outbox rows that say so."""
_STATES = "select run_id, run_state(r) from runs r where run_id = any($1)"
_LEFT_BEHIND = """
select to_jsonb(o) from outbox o
where worker is null or created_at < clock_timestamp() - make_interval(secs => $1)
  and (worker = $3 and id < $4 or created_at < clock_timestamp() - make_interval(secs => $5)
       or worker <> all (array(select worker_id from workers where lease_until > clock_timestamp() + make_interval(secs => $6)) || $3::uuid))
order by id limit $2 for update skip locked
"""
_ALL = (1 << 63) - 1
_FOR_GOOD = (MessageSizeTooLargeError, InvalidTopicError, UnknownTopicOrPartitionError)


class Producer(Protocol):
    """aiokafka's producer, as far as we use it: a plain one, acks=all, not idempotent (that one dies for good in a long outage)."""

    async def send(self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None) -> "asyncio.Future[Any]": ...


class Fetching(Protocol):
    """A connection to the ledger, ours or asyncpg's."""

    async def fetch(self, sql: str, /, *args: Any) -> list[Any]: ...


class Outbox:
    """Publishes outbox rows and removes them once Kafka has them."""

    def __init__(
        self,
        producer: Producer,
        connection: Connection,
        sweeping: Connection,
        *,
        worker: UUID,
        unheard: float,
        gather: float = 0,
        held: Callable[[], bool] = lambda: False,
        most: int = 500,
        in_memory: int = 20_000,
    ) -> None:
        """`unheard`: so much of its lease, in seconds, is left to a worker that beats; `held`: there is more pressing work than taking rows away."""
        self._producer, self._connection, self._sweeping, self._held = producer, connection, sweeping, held
        self._worker, self._unheard = worker, unheard
        self._gather, self._most, self._in_memory = gather, most, in_memory
        self._rows: deque[Row] = deque()
        self._published: list[int] = []
        self._in_hand: set[int] = set()
        self._changed: Changed = {}
        self._wake, self._changes, self._done = asyncio.Event(), asyncio.Event(), asyncio.Event()
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
                await asyncio.sleep(self._gather)
                continue
            batch = [self._rows.popleft() for _ in range(min(self._most, len(self._rows)))]
            published: list[int] = []
            changed: Changed = {}
            try:
                published = await self._send(batch, changed, self._connection)
                point("outbox.published")
            except Exception as error:
                log.warning("rows are left to the outbox's sweep", rows=len(batch), error=repr(error))
            for run_id, rows in changed.items():
                self._changed.setdefault(run_id, []).extend(rows)
                self._changes.set()
            self._published += published
            self._in_hand.difference_update({row["id"] for row in batch}.difference(published, *changed.values()))
            self._done.set()

    async def run_removal(self) -> None:
        """Take published rows away, many at a time; a row that stays after a crash is published again, which is harmless."""
        while True:
            await self._done.wait()
            if self._held() and not self._stopping:
                await asyncio.sleep(REMOVED_EVERY)
                continue
            self._done.clear()
            ids, self._published = self._published, []
            try:
                if ids and not await self._entries_sent(ids):
                    self._published += ids
                    self._done.set()
                    await asyncio.sleep(0.5)
                    continue
                if ids:
                    await self._connection.fetch("delete from outbox where id = any($1)", ids)
                    self._in_hand.difference_update(ids)
            except Exception as error:
                if not is_outage(error):
                    log.exception("published rows could not be taken away; trying again")
                await self._connection.drop()
                self._published += ids
                await asyncio.sleep(0.5)
                self._done.set()
                continue
            if self._stopping and not (self._rows or self._changed or self._published):
                return
            if not self._stopping:
                await asyncio.sleep(REMOVED_EVERY)

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._changes.set()
        self._done.set()

    async def run_states(self) -> None:
        """Publish the states of runs that changed, a tenth of a second's changes at a time: only the newest of each counts."""
        while not (self._stopping and not self._changed and not self._rows):
            await self._changes.wait()
            self._changes.clear()
            await asyncio.sleep(STATES_EVERY)
            changed, self._changed = self._changed, {}
            if not changed:
                continue
            try:
                told = await self._send_states(await self._connection.fetch(_STATES, list(changed)), changed)
                self._published += told  # apart from the awaiting: the list is taken away and begun anew meanwhile
                self._done.set()
            except Exception as error:
                log.warning("states of runs are left to the outbox's sweep", runs=len(changed), error=repr(error))
                self._in_hand.difference_update(*changed.values())

    async def sweep(self) -> int:
        """Publish rows that nobody has in hand, or whose worker was not heard of; how many. Rows in another worker's sweep are passed over.

        Of its own rows a worker takes those that are older than all in its hands. Whoever has a queue does not look: it would only grow.
        """
        if len(self._rows) > self._most:
            return 0
        async with self._sweeping.transaction() as raw:
            oldest = min(self._in_hand, default=_ALL)
            found = await raw.fetch(_LEFT_BEHIND, LEFT_BEHIND, self._most, self._worker, oldest, FORGOTTEN, self._unheard)
            rows = [row[0] for row in found if row[0]["id"] not in self._in_hand]
            changed: Changed = {}
            sent = await self._send(rows, changed, raw)
            if changed:
                sent += await self._send_states(await raw.fetch(_STATES, list(changed)), changed)
            if sent and await self._entries_sent(sent):
                await raw.execute("delete from outbox where id = any($1)", sent)
            return len(sent)

    async def _entries_sent(self, ids: Sequence[int]) -> bool:
        """The journal entries of rows that are about to be taken away go to Kafka too: a ledger that got lost is refilled from there."""
        found = await journal.records(self._connection, ids)
        answers = await asyncio.gather(*(self._send_entry(record) for record in found), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, _FOR_GOOD):
                log.error("journal entries cannot be published: a refilled ledger would miss them", code="unpublishable", error=repr(answer))
            elif isinstance(answer, KafkaError):
                self._failed(answer)
                return False
            elif isinstance(answer, BaseException):
                raise answer
        return True

    async def _send_entry(self, record: Record) -> None:
        await (await self._producer.send(journal.TOPIC, record.value, record.key, headers=record.headers))

    async def _send(self, rows: Sequence[Row], changed: Changed, through: Fetching) -> list[int]:
        """Send events in order; gives the ids of rows that are done with, and notes in `changed` those whose run's state is to follow.

        `through`: the connection that has the rows locked, if one has; another would wait for it.
        """
        dead = await self._dead_letters(rows)
        waiting: list[tuple[Row, asyncio.Future[Any] | None]] = []
        async for row in calmly(rows, at_once=SENT_AT_ONCE):
            try:
                waiting.append((row, await self._send_event(row, dead)))
            except _FOR_GOOD as error:
                await _set_aside(row, error, through)
            except KafkaError as error:
                self._failed(error)
        return [row["id"] for row, future in waiting if await self._acknowledged(row, future, through) and not _state_follows(row, changed)]

    async def _send_event(self, row: Row, dead: dict[str, Row]) -> "asyncio.Future[Any] | None":
        topic = row["topic"]
        if topic is None or (topic == DEAD_TOPIC and row["event_id"] not in dead):
            return None
        record = dead_record(dead[row["event_id"]]) if topic == DEAD_TOPIC else event_record(row)
        self.recent.add(row["event_id"])  # before it is sent: its echo may be faster than its acknowledgement
        return await self._producer.send(topic, record.value, record.key, headers=record.headers)

    async def _acknowledged(self, row: Row, future: "asyncio.Future[Any] | None", through: Fetching) -> bool:
        if future is None:
            return True
        try:
            await future
        except _FOR_GOOD as error:
            await _set_aside(row, error, through)
            return False
        except KafkaError as error:
            self._failed(error)
            return False
        self.outage = None
        metrics.events_published.labels(row["topic"]).inc()
        return True

    async def _send_states(self, found: Sequence[Any], changed: Changed) -> list[int]:
        """Send the states read from the ledger; gives the ids of the rows that asked for them. A run that is gone has no state to tell."""
        now = datetime.now(UTC)
        waiting, failed = [], set[UUID]()
        async for _, state in calmly(found, at_once=SENT_AT_ONCE):
            record, run_id = state_record(state, now), UUID(state["run_id"])
            try:
                waiting.append((run_id, await self._producer.send(STATE_TOPIC, record.value, record.key, headers=record.headers)))
            except KafkaError as error:
                self._failed(error)
                failed.add(run_id)
        for run_id, future in waiting:
            try:
                await future
            except KafkaError as error:
                self._failed(error)
                failed.add(run_id)
        for run_id in failed:
            self._in_hand.difference_update(changed[run_id])
        return [row for run_id, rows in changed.items() if run_id not in failed for row in rows]

    def _failed(self, error: KafkaError) -> None:
        metrics.outbox_failures.inc()
        if self.outage is None:
            log.warning("Kafka does not acknowledge; rows stay in the outbox and are sent again", error=repr(error))
        self.outage = repr(error)

    async def _dead_letters(self, rows: Sequence[Row]) -> dict[str, Row]:
        ids = [UUID(row["event_id"]) for row in rows if row["topic"] == DEAD_TOPIC]
        if not ids:
            return {}
        found = await self._connection.fetch("select * from dead_letters where id = any($1)", ids)
        return {str(row["id"]): dict(row) for row in found}


async def _set_aside(row: Row, error: Exception, through: Fetching) -> None:
    """The broker refuses this row for good: it is kept beside, and the rest goes on."""
    log.error(
        "an event cannot be published; it is in the table unpublishable",
        code="unpublishable",
        topic=row["topic"],
        event_id=row["event_id"],
        error=repr(error),
    )
    sql = "with gone as (delete from outbox where id = $1 returning *) insert into unpublishable select gone.*, clock_timestamp(), $2 from gone"
    await through.fetch(sql, row["id"], repr(error)[:500])


def _state_follows(row: Row, changed: Changed) -> bool:
    """Whether the row is done with only when its run's state was told."""
    if not row["state"] or row["run_id"] is None:
        return False
    changed.setdefault(UUID(row["run_id"]), []).append(row["id"])
    return True


class RecentIds:
    """A bounded memory of event ids."""

    def __init__(self, most: int = 50_000) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()  # a plain one looks for its oldest among all that were taken away
        self._most = most

    def add(self, event: str) -> None:
        self._ids[event] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def __contains__(self, event: str) -> bool:
        return event in self._ids
