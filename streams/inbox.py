"""The only way in: a record becomes a decoded event, the event an entry in the ledger, and only then may its offset be committed.

Foreign facts (requests, completions, ticks) are recorded one transaction each batch; echoes of our own events are known by
their ids and only move the watermark. Whatever cannot be used becomes a dead letter. Nothing here ever raises at an agent,
except `Stopped` when the worker stops while the ledger is away: then the record stays unread.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import NamedTuple
from uuid import UUID

import structlog

from schemas.catalogue import FOREIGN
from schemas.cloudevents import Received, Refused, decode
from schemas.context import Origin
from streams import metrics
from streams.executor import Executor
from streams.faultpoints import point
from streams.items import Arrived, Item, Where, covers, dead_item, foreign_item, not_ours, place, refusal_sentence
from streams.ledger.connection import is_outage
from streams.ledger.groupcommit import ItemRefused
from streams.ledger.ledger import Answer, Ledger, merge_offsets
from streams.names import OURS
from streams.outbox import Outbox
from streams.pipelines import Pipelines

log = structlog.get_logger(__name__)

_OURS = OURS.encode()
_WORK_MADE = frozenset({"run", "next", "finished"})
MOST_STRANGERS = 5000
ECHO_FLUSH = 0.5
"""Seconds between two flushes of the echoes' watermark."""


class Stranger(NamedTuple):
    """A record that says it is ours and that this worker did not publish lately."""

    event_id: UUID
    record: Arrived


class Inbox:
    """Takes records, one after the other or many at once, and gives each its fate."""

    def __init__(
        self,
        pipelines: Pipelines,
        ledger: Ledger,
        outbox: Outbox,
        executor: Executor,
        *,
        cluster: str,
        worker: UUID,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        """`held`: there is more pressing work than settling echoes."""
        self._pipelines, self._ledger, self._outbox, self._executor = pipelines, ledger, outbox, executor
        self._cluster, self._worker, self._held = cluster, worker, held
        self._settings = pipelines.settings.runtime
        self._echoes: list[Item] = []
        self._strangers: dict[Where, Stranger] = {}
        self._settling, self._settled = asyncio.Lock(), asyncio.Event()

    def skim(self, record: Arrived) -> bool:
        """Whether it says that it is the echo of what a worker published, the common case by far: then nothing of it is worth decoding.

        Another worker's, and one from before a restart, is looked up in bulk, off the acknowledgement's way.
        """
        said = own_id(record) if self._settings.eager else None
        if said is None:
            return False
        if said in self._outbox.recent:
            self._cover(record)
            return True
        try:
            event_id = UUID(said)
        except ValueError:
            return False
        if len(self._strangers) >= MOST_STRANGERS:
            return False
        self._strangers[record.where] = Stranger(event_id, record)
        return True

    async def take(self, record: Arrived) -> None:
        """Record it durably; returning is the acknowledgement."""
        point("inbox.received")
        if self.skim(record):
            return
        try:
            received = self._decode(record)
        except Refused as refusal:
            await self.bury(record, refusal)
            return
        if received.meta.source == OURS:
            await self._echo(record, received)
        elif record.topic in FOREIGN:
            await self._record(record, received)
        else:
            await self.bury(record, not_ours(record, received.event.tenant_id))
        point("inbox.recorded")

    def _decode(self, record: Arrived) -> Received:
        origin = Origin(self._cluster, record.topic, record.partition, record.offset, record.timestamp_ms)
        return decode(record.key, record.value, record.headers, origin)

    async def _record(self, record: Arrived, received: Received) -> None:
        item = foreign_item(self._pipelines, received, worker=self._executor.worker_for_next)
        if item is None:
            await self._ledger.receive({"kind": "offsets", "covers": covers(record)})
            return
        item |= place(record)
        try:
            async with self._turn(item):
                answer = await self._ledger.receive(item)
        except ItemRefused as refusal:
            await self.bury(
                record,
                Refused(
                    "unstorable",
                    f"PostgreSQL refused its content (SQLSTATE {refusal.code}); publish it without what cannot be stored",
                    item["tenant"],
                ),
            )
            return
        metrics.events_received.labels(record.topic, answer["result"]).inc()
        self.follow(answer)
        if answer["result"] == "refused":
            await self.bury(record, Refused(answer["code"], refusal_sentence(answer["code"], received.event), received.event.tenant_id))

    def _turn(self, item: Item) -> AbstractAsyncContextManager[None]:
        """A run that begins among many is in no hurry."""
        gathers = item["kind"] == "request" and self._pipelines.by_name[item["pipeline"]].gathers
        return self._executor.giving_way.turn() if gathers else nullcontext()

    def follow(self, answer: Answer) -> None:
        """Publish what the ledger put out, start the step it leased."""
        if answer.get("outbox"):
            self._outbox.publish(answer["outbox"])
        if answer.get("step"):
            self._executor.take(answer["step"])
        elif answer["result"] in _WORK_MADE:
            self._executor.room_made.set()

    async def _echo(self, record: Arrived, received: Received) -> None:
        """Our own event comes back: a no-op, unless eager hand-over is off and a step waits for it."""
        if str(received.meta.id) in self._outbox.recent:
            self._cover(record)
        else:
            self._strangers[record.where] = Stranger(received.meta.id, record)
            if len(self._strangers) > MOST_STRANGERS:  # an outage of the ledger: bounded memory, and Kafka waits
                self._settled.clear()
                await self._settled.wait()
        if not self._settings.eager:
            await self._start_fed(received)

    async def _start_fed(self, received: Received) -> None:
        run_id = received.event.run_id
        if run_id is None:
            return
        for stage in self._pipelines.feeds.get(received.meta.type, []):
            limited = self._pipelines.limit_of(stage) is not None or stage.cpu or self._executor.room <= 0
            try:
                rows = await self._ledger.claim_echo(self._worker, run_id, stage.name, received.meta.id, limited=limited)
            except Exception as error:
                if not is_outage(error):
                    log.exception("an echo could not start its step; it starts by itself in a moment")
                return
            for row in rows:
                self._executor.take(row)
            if limited:
                self._executor.room_made.set()

    def _cover(self, record: Arrived) -> None:
        self._echoes.append(covers(record))

    async def run_flush(self) -> None:
        """Bring the echoes' watermark into the ledger each half second, unless there is more pressing work; an outage is waited out."""
        while True:
            await asyncio.sleep(ECHO_FLUSH)
            if self._held() and len(self._strangers) < MOST_STRANGERS // 2:
                continue
            try:
                await self.flush()
            except Exception as error:
                if not is_outage(error):
                    log.exception("echoes could not be settled; trying again")

    async def flush(self) -> None:
        """Settle echoes and move the watermark over them."""
        await self.settle_strangers()
        echoes, self._echoes = self._echoes, []
        spans = merge_offsets([{"covers": cover} for cover in echoes])
        await asyncio.gather(*(self._ledger.receive({"kind": "offsets", "covers": span}) for span in spans))

    async def settle_strangers(self) -> None:
        """Look up who said the events that claim to be ours; the ones that nobody here said are dead letters (`not_ours`).

        Afterwards nothing that was read before is unsettled: one that is being settled by another task is waited for.
        """
        async with self._settling:
            strangers = dict(self._strangers)
            if not strangers:
                return
            known = await self._ledger.known(list({stranger.event_id for stranger in strangers.values()}))
            for where, (event_id, record) in strangers.items():
                if event_id in known:
                    self._cover(record)
                else:
                    await self.bury(record, self._refusal(record))
                del self._strangers[where]
        self._settled.set()

    def _refusal(self, record: Arrived) -> Refused:
        """Why a record that is not ours and says so is a dead letter: perhaps it is not even an event."""
        try:
            return not_ours(record, self._decode(record).event.tenant_id)
        except Refused as flaw:
            return flaw

    async def bury(self, record: Arrived, refusal: Refused) -> None:
        """Keep a record that cannot be used, whole and with the reason; the partition flows on."""
        log.warning(
            "dead letter",
            code=refusal.code,
            reason=refusal.sentence,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            tenant=refusal.tenant_id,
        )
        metrics.dead_letters.labels(record.topic, refusal.code).inc()
        item = dead_item(record, refusal, self._cluster)
        self.follow(await self._ledger.receive(item))


def own_id(record: Arrived) -> str | None:
    """The event id of a record that says it is ours."""
    source = event_id = None
    for name, value in record.headers:
        if name == "ce_source":
            source = value
        elif name == "ce_id":
            event_id = value
    return event_id.decode("ascii", "replace") if source == _OURS and event_id else None
