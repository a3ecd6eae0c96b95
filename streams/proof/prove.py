"""`tidemill prove`: for each effect of a run, what journal, effects, topics and neighbours say, and whether they agree.

The ledger is read in one snapshot and before the others, so whatever it says must be found there. What only the others have is looked
up once more in the ledger of now. So runs in flight can be proven too: what is not over is shown and not judged.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from schemas.catalogue import EVENTS
from streams.proof import record, topics
from streams.proof.judge import HOLE, Line, judge, unsaid
from streams.proof.neighbours import Journals, Neighbours
from streams.proof.record import Record
from streams.proof.topics import Published
from streams.settings import Settings
from streams.topics import declared

BEFORE = timedelta(minutes=5)
"""How much earlier than the run the topics are read: records bear their worker's clock, which is not the ledger's."""
_TENANTS = "select tenant_id from tenants union select tenant_id from runs"
_RUNS = "select run_id from runs where tenant_id = $1 order by requested_at, run_id"
_KNOWN = "select run_id from runs where run_id = any($1)"
_AHEAD = "select ahead <> '0' from clock"


@dataclass(frozen=True, slots=True)
class Proof:
    """One run, or what topics and neighbours tell of a run that the ledger does not know (`state` is `unknown`)."""

    run_id: UUID
    tenant_id: str
    state: str
    over: bool
    lines: Sequence[Line]

    @property
    def mismatches(self) -> int:
        return sum(line.mismatch for line in self.lines)


class Prover:
    """`snapshot` is a connection within a repeatable-read transaction, `now` one that sees what was committed since."""

    def __init__(self, snapshot: "asyncpg.Connection[Any]", now: "asyncpg.Connection[Any]", neighbours: Neighbours, settings: Settings) -> None:
        self._snapshot, self._now, self._neighbours, self._settings = snapshot, now, neighbours, settings
        kept = {topic.name: topic.config.get("retention.ms") for topic in declared(settings.kafka)}
        at = datetime.now(UTC)
        self._kept_since = {name: at - timedelta(milliseconds=int(time)) for name, time in kept.items() if time}

    async def run(self, run_id: UUID) -> Proof:
        """One run; it must be there."""
        found = await record.load(self._snapshot, run_id)
        assert found is not None, "the caller found it a moment ago"
        since = None if await self._snapshot.fetchval(_AHEAD) else found.requested_at - BEFORE
        partition = topics.partition_of(found.tenant_id, self._settings.kafka.partitions)
        published = await self._read(partition, since)
        journals = await self._neighbours.journals(found.tenant_id)
        proof = await self._prove(found, published, journals)
        if since is not None and any(line.verdict == "not_on_kafka" for line in proof.lines):  # a worker's clock may be further behind
            proof = await self._prove(found, await self._read(partition, None), journals)
        return proof

    async def every(self) -> AsyncIterator[Proof]:
        """All runs, and those that only others know, partition by partition: memory holds the events of one of them."""
        placed: dict[int, set[str]] = defaultdict(set)
        for row in await self._snapshot.fetch(_TENANTS):
            placed[topics.partition_of(row["tenant_id"], self._settings.kafka.partitions)].add(row["tenant_id"])
        for partition in range(self._settings.kafka.partitions):
            published = await self._read(partition, None)
            for tenant in sorted(placed[partition] | published.of_tenant.keys()):  # a tenant may be lost whole
                journals, lost = await self._neighbours.journals(tenant), await record.refilled(self._snapshot, tenant)
                for row in await self._snapshot.fetch(_RUNS, tenant):
                    if found := await record.load(self._snapshot, row["run_id"], lost):
                        yield await self._prove(found, published, journals)
                for stray in await self._strays(tenant, published, journals):
                    yield stray

    async def _read(self, partition: int, since: datetime | None) -> Published:
        return await topics.read(self._settings.kafka, list(EVENTS), partition, since)

    async def _prove(self, found: Record, published: Published, journals: Journals) -> Proof:
        lines = judge(found, published, journals, kept_since=self._kept_since)
        if any(line.verdict in ("unexplained", "not_journalled") for line in lines):
            later = await record.load(self._now, found.run_id)
            lines = judge(found, published, journals, kept_since=self._kept_since, later=later)
        return Proof(found.run_id, found.tenant_id, found.state.value, found.over, lines)

    async def _strays(self, tenant: str, published: Published, journals: Journals) -> list[Proof]:
        """What was published, or accepted under keys, for runs that the ledger has never heard of."""
        found: dict[UUID, list[Line]] = defaultdict(list)
        lost = await record.refilled(self._now, tenant)
        unknown = published.of_tenant.get(tenant, set()) - {row["run_id"] for row in await self._now.fetch(_RUNS, tenant)}
        sentence = "on Kafka in our name for a run that the ledger does not know: the ledger was set back, or somebody else publishes"
        for each in sorted(unknown):
            found[each] = [unsaid(topic, event, published, lost, "unknown_run", sentence) for event, topic in published.of_run[each].items()]
        for name, rows in journals.items():
            for row in rows or ():
                if run := _run_of(row.idempotency_key or ""):
                    sentence = "accepted there for a run that the ledger does not know: the ledger was set back, or the key is forged"
                    code = HOLE if lost.holes else "unknown_run"
                    line = Line(f"{row.method} {row.path}", row.idempotency_key or "", code, "nothing", "none", f"1× {name}", sentence)
                    found[run].append(line)
        known = {row["run_id"] for row in await self._now.fetch(_KNOWN, list(found))}
        return [Proof(run, tenant, "unknown", True, lines) for run, lines in found.items() if run not in known]


def _run_of(key: str) -> UUID | None:
    """The run of a step's key."""
    run, _, rest = key.partition(":")
    try:
        return UUID(run) if rest else None
    except ValueError:
        return None
