"""What a worker does before anything else: if Kafka knows more of our own doings than the ledger, the ledger was set back, and nothing may begin.

The witness is the topic `run.journal`: of what was published last, each entry must be in the ledger, since nothing is published that was not
committed before. Offsets that the group committed beyond the ledger's watermarks are no proof (echoes of our own events are acknowledged
before the watermark is written); they are read again as gaps.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.folded import Data, Entry
from streams.kafka import open_admin
from streams.ledger.connection import Connection, is_outage
from streams.refill.read import latest
from streams.settings import Settings

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0
LAST = 200
"""Records of each partition that are looked at: a ledger that was set back misses the last of them."""
_UNKNOWN = """
select e.tenant_id, count(*) as entries from jsonb_to_recordset($1) as e (tenant_id text, seq bigint, kind text, run_id uuid)
where not exists (select 1 from journal j where j.tenant_id = e.tenant_id and j.seq = e.seq
    and (j.kind = 'refilled' or j.kind = e.kind and j.run_id is not distinct from e.run_id)) group by e.tenant_id
"""
_FLAG = "insert into reconciling (reason) values ($1) on conflict (id) do update set reason = excluded.reason"
_GAP = "select note_gap($1, $2, $3, $4)"


def _key(entry: Entry) -> Data:
    return {"tenant_id": entry.tenant_id, "seq": entry.seq, "kind": entry.kind, "run_id": entry.run_id and str(entry.run_id)}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the ledger is behind Kafka."""

    tenants: int
    entries: int
    """Of ours, published, and not in the ledger."""
    offsets: int
    """Acknowledged by the workers' group, and beyond the ledger's watermarks."""
    empty: bool
    """The ledger has no journal at all."""

    @property
    def sentence(self) -> str:
        command = "tidemill rebuild --from-topics" if self.empty else "tidemill rebuild --adopt"
        return (
            f"Kafka has at least {self.entries} journal entries of {self.tenants} tenants that the ledger does not know "
            f"({self.offsets} offsets behind): it was lost or restored from a backup; nothing is accepted or executed until `{command}`"
        )


class Reconciler:
    """Looks, and holds the worker back while the ledger is behind."""

    def __init__(self, settings: Settings, topics: list[str]) -> None:
        self._settings, self._topics = settings, topics
        self._connection = Connection(settings.ledger.dsn.get_secret_value(), name="tidemill-reconcile")
        self.sentence: str | None = None
        """Set while the worker is held back."""

    async def run(self) -> None:
        """Return once the ledger knows what Kafka knows; outages are waited out."""
        try:
            while not await self._over():  # noqa: ASYNC110  # what it waits for happens in Kafka and PostgreSQL
                await asyncio.sleep(LOOK_EVERY)
        finally:
            await self._connection.close()

    async def _over(self) -> bool:
        try:
            lag, gaps = await self.look()
            if not lag.entries:
                await self._go_on(gaps)
                return True
            await self._connection.fetch(_FLAG, lag.sentence)
        except (KafkaError, AssertionError) as error:  # aiokafka asserts when its coordinator is gone
            log.debug("looking for what the ledger misses, without Kafka; trying again", error=repr(error))
            return False
        except Exception as error:
            if not is_outage(error):
                raise
            await self._connection.drop()
            return False
        if self.sentence is None:
            log.error(lag.sentence, code="reconciling", tenants=lag.tenants, entries=lag.entries, offsets=lag.offsets)
        self.sentence = lag.sentence
        return False

    async def look(self) -> tuple[Lag, list[tuple[str, int, int, int]]]:
        """How far the ledger is behind, and the stretches (topic, partition, first, past) between watermarks and committed offsets."""
        entries = await self._published()
        unknown = await self._connection.fetch(_UNKNOWN, entries)
        gaps = await self._gaps()
        empty = not await self._connection.value("select 1 from journal limit 1")
        lag = Lag(len(unknown), sum(row["entries"] for row in unknown), sum(past - first for *_, first, past in gaps), empty)
        return lag, gaps

    async def _published(self) -> list[dict[str, Any]]:
        found = []
        for number in range(self._settings.kafka.partitions):
            partition = await latest(self._settings.kafka, number, LAST)
            for known in partition.tenants.values():
                found += [_key(each.entry) for each in known.values()]
        return found

    async def _gaps(self) -> list[tuple[str, int, int, int]]:
        async with open_admin(self._settings.kafka) as admin:
            committed: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(self._settings.kafka.app_id)
        marks = {(row["topic"], row["partition"]): row["next"] for row in await self._connection.fetch("select topic, partition, next from offsets")}
        return [
            (place.topic, place.partition, marks[place], said.offset)
            for place, said in sorted(committed.items())
            if place.topic in self._topics and place in marks and marks[place] < said.offset
        ]

    async def _go_on(self, gaps: list[tuple[str, int, int, int]]) -> None:
        await self._connection.fetch("delete from reconciling")
        for topic, partition, first, past in gaps:
            await self._connection.fetch(_GAP, topic, partition, first, past)
        if gaps:
            count = sum(past - first for *_, first, past in gaps)
            log.info("offsets between the ledger's watermarks and the group's commits are read again", code="offset_gap", offsets=count)
        if self.sentence is not None:
            log.info("the ledger knows what Kafka knows again; going on")
        self.sentence = None
