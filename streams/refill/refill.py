"""`tidemill rebuild --from-topics` and `--adopt`: everything that Kafka knows and the ledger does not is written back, tenant by tenant.

Foreign events that no entry accounts for are not taken here: their offsets become open gaps, which a worker reads again as it reads any gap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from schemas.cloudevents import body_hash
from schemas.event import Event
from streams import names
from streams.fold import REFILLED
from streams.folded import Data
from streams.items import request_item
from streams.kafka import wait_for_cluster
from streams.membership import WAKE_CHANNEL
from streams.names import OURS
from streams.pipelines import Pipelines
from streams.proof.snapshot import folded_of
from streams.refill.mend import mend
from streams.refill.read import Heard, Known, Partition, read
from streams.refill.write import Diverged, write
from streams.requests import SOURCE, body_of
from streams.stage import Pipeline

_NOW = "select clock_timestamp() + ahead from clock"
_JOURNAL = "select * from journal where tenant_id = $1 order by seq"
_SEEN = "select event_key from inbox where event_key = any($1)"
_CAUSES = "select event_id from causes where event_id = any($1)"
_MATCHED = """
insert into inbox (event_key, tenant_id, topic, partition, "offset", event_id, body, run_id, fate, at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
"""
_GAP = "select note_gap($1, $2, $3, $4)"
_MARK = """
insert into offsets (topic, partition, next) values ($1, $2, $3)
on conflict (topic, partition) do update set next = greatest(offsets.next, excluded.next)
"""


@dataclass(frozen=True, slots=True)
class TenantRefilled:
    """What became of one tenant."""

    tenant_id: str
    done: bool
    entries: int
    """Journal entries written, those that stand for holes included."""
    open_steps: int
    missing: list[tuple[int, int]] = field(default_factory=list)
    """First and last number of entries that no topic has."""
    set_aside: list[int] = field(default_factory=list)
    why: str | None = None
    """Why the tenant was left as it is."""


@dataclass
class Refilled:
    """What became of the ledger."""

    tenants: list[TenantRefilled] = field(default_factory=list)
    topics: dict[str, datetime | None] = field(default_factory=dict)
    """Topic -> time of its oldest record: what is older is on no topic."""
    accepted: int = 0
    """Requests of our own that had no run, and have one now."""
    read_again: int = 0
    """Foreign events that a worker will read again."""

    @property
    def done(self) -> bool:
        return all(each.done for each in self.tenants)


class Refill:
    """One pass over all topics."""

    def __init__(self, raw: "asyncpg.Connection[Any]", pipelines: Pipelines) -> None:
        self._raw, self._pipelines, self._settings = raw, pipelines, pipelines.settings
        self._result = Refilled()
        self._heard: list[Heard] = []
        self._marks: dict[tuple[str, int], int] = {}
        self._matched: dict[UUID, UUID] = {}
        """Completion -> the run that went on by it."""
        self._over: set[UUID] = set()
        self._now = datetime.now(UTC)

    async def run(self) -> Refilled:
        cluster = await wait_for_cluster(self._settings.kafka)
        self._now = await self._raw.fetchval(_NOW)
        for number in range(self._settings.kafka.partitions):
            partition = await read(self._settings.kafka, self._pipelines.topics, number, cluster)
            self._note_places(partition, number)
            for tenant_id in sorted(partition.tenants):
                await self._tenant(tenant_id, partition)
        async with self._raw.transaction():
            await self._settle()
            await self._raw.executemany(_MARK, [(*place, past) for place, past in self._marks.items()])
            if self._result.done:
                await self._raw.execute("delete from reconciling")
            await self._raw.execute(f"select pg_notify('{WAKE_CHANNEL}', '')")
        return self._result

    def _note_places(self, partition: Partition, number: int) -> None:
        self._heard += partition.heard
        for topic, (_, past) in partition.spans.items():
            self._marks[topic, number] = past
            oldest = [at for at in (self._result.topics.get(topic), partition.since.get(topic)) if at]
            self._result.topics[topic] = min(oldest, default=None)

    async def _tenant(self, tenant_id: str, partition: Partition) -> None:
        known, said = partition.tenants[tenant_id], partition.said[tenant_id]
        rows = await self._raw.fetch(_JOURNAL, tenant_id)
        base, error = await folded_of(_each(rows))
        told = {row["seq"]: (row["kind"], row["run_id"]) for row in rows if row["kind"] != REFILLED}
        why = f"its journal is not whole: {error}" if error else None
        if other := [seq for seq, each in known.items() if seq in told and told[seq] != (each.entry.kind, each.entry.run_id)]:
            why = f"the ledger went on after it was set back (its entry {min(other)} is another one than on Kafka); restore it again, then adopt"
        for each in known.values():
            self._remember(each)
        newer = [known[seq] for seq in sorted(known) if seq > base.seq]
        lost = said.keys() - {each.entry.event_id for each in known.values()} - {row["event_id"] for row in rows}
        lost -= {UUID(row["data"]["undone"]) for row in rows if row["data"].get("undone")}
        note = {"since": {topic: at.isoformat() for topic, at in partition.since.items()}}
        if why is None and newer:
            entries = [each.entry for each in newer]
            mended = mend(tenant_id, base, entries, self._first, at=self._now, note=note, lost={event: said[event] for event in lost})
            try:
                rebuilt = await write(self._raw, mended, newer, base.seq, self._pipelines)
            except Diverged as diverged:
                why = str(diverged)
            else:
                done = TenantRefilled(tenant_id, True, len(mended.entries), rebuilt.reopened, mended.missing, mended.set_aside)
                self._result.tenants.append(done)
        if why is not None:
            self._result.tenants.append(TenantRefilled(tenant_id, False, 0, 0, why=why))

    def _first(self, pipeline: str) -> Data | None:
        found = self._pipelines.by_name.get(pipeline)
        return self._pipelines.first(found) if found else None

    def _remember(self, known: Known) -> None:
        """What entries say about foreign events: which completions were used, which runs are over."""
        entry = known.entry
        if entry.run_id is None:
            return
        if entry.kind == "finished":
            self._over.add(entry.run_id)
        elif entry.kind == "step" and entry.topic is None and entry.data.get("output") is not None:
            event = entry.data.get("event") or entry.causation
            if event:
                self._matched[UUID(str(event))] = entry.run_id

    async def _settle(self) -> None:
        """Foreign events that are accounted for go into the inbox; the rest is to be read again."""
        seen = {row[0] for row in await self._raw.fetch(_SEEN, [each.key for each in self._heard if each.key])}
        causes = {row[0] for row in await self._raw.fetch(_CAUSES, [each.event_id for each in self._heard if each.own])}
        again: list[Heard] = []
        for each in self._heard:
            if each.own is not None:
                if each.event_id not in causes:
                    await self._accept(each)
            elif each.key is None or each.key not in seen:
                run = self._run_of(each)
                if run is None:
                    again.append(each)
                else:
                    fate = "run" if each.topic in self._pipelines.by_entry else "matched"
                    place = (each.topic, each.partition, each.offset)
                    await self._raw.execute(_MATCHED, each.key, each.tenant_id, *place, each.event_id, each.body, run, fate, self._now)
        self._result.read_again = len(again)
        await self._raw.executemany(_GAP, list(_ranges(again)))

    def _run_of(self, heard: Heard) -> UUID | None:
        """The run that this event is known to have made, or to have carried on."""
        if heard.event_id is None or heard.tenant_id is None:
            return None
        if pipeline := self._pipelines.by_entry.get(heard.topic):
            run = names.run_id(pipeline.name, heard.tenant_id, heard.event_id)
            return run if run in self._over else None
        return self._matched.get(heard.event_id)

    async def _accept(self, heard: Heard) -> None:
        """A request of our own (API, CLI, timer) went out, and nothing that followed did: it gets its run now."""
        got = heard.own
        assert got is not None
        pipeline = self._pipelines.by_entry.get(heard.topic)
        if pipeline is None or names.run_id(pipeline.name, got.event.tenant_id, got.meta.id) in self._over:
            return
        source, body = known_as(pipeline, got.event)
        item = request_item(self._pipelines, pipeline, got.event, got.meta.id, source, body, got.meta.traceparent)
        item = {name: value for name, value in item.items() if value is not None} | {"create": True, "abandoned": True}
        answer = await self._raw.fetchval("select receive($1, '[]', $2)", [item], self._now)
        self._result.accepted += answer["result"] in ("run", "pending", "merged")


def known_as(pipeline: Pipeline, event: Event) -> tuple[str, bytes]:
    """Source and body hash by which timers, API and CLI know their request again: a slot may fire once more, a client may repeat its key."""
    data = event.dump()
    return OURS if "slot" in data else SOURCE, body_of(pipeline, data) if "request_key" in data else body_hash(data)


async def _each(rows: Sequence[Any]) -> Any:
    for row in rows:
        yield row


def _ranges(heard: Iterable[Heard]) -> list[tuple[str, int, int, int]]:
    """Neighbouring offsets together; never one of our own among them, which could not be known yet."""
    ranges: list[tuple[str, int, int, int]] = []
    for topic, partition, offset in sorted((each.topic, each.partition, each.offset) for each in heard):
        if ranges and ranges[-1][:2] == (topic, partition) and ranges[-1][3] == offset:
            ranges[-1] = (*ranges[-1][:3], offset + 1)
        else:
            ranges.append((topic, partition, offset, offset + 1))
    return ranges
