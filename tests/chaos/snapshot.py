"""Everything there is to know when the dust has settled: topics, ledger, neighbours' journals and S3, as plain data for the checker."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from schemas.cloudevents import Received, Refused, decode
from schemas.context import Origin

Row = dict[str, Any]
Place = tuple[str, int, int]
"""(topic, partition, offset)."""


class Record(NamedTuple):
    """A record as Kafka keeps it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset

    @property
    def id(self) -> UUID | None:
        """The CloudEvents id, if there is one."""
        for name, value in self.headers:
            if name == "ce_id":
                return UUID(value.decode())
        return None

    def read(self, cluster: str) -> Received | Refused:
        """What the codec makes of it."""
        try:
            return decode(self.key, self.value, self.headers, Origin(cluster, self.topic, self.partition, self.offset, self.timestamp_ms))
        except Refused as refusal:
            return refusal


class Artefact(NamedTuple):
    """An index folder in S3: what its manifest says of the files, and what the files are."""

    tenant_id: str | None
    promised: dict[str, str]
    found: dict[str, str]


@dataclass
class Snapshot:
    """One look at everything, after the drain."""

    cluster: str
    now: datetime
    grace: timedelta
    drained: bool
    commands: dict[str, str]
    """Stage -> path of the one command that it gives a neighbour."""
    read: frozenset[str]
    """Topics that the agents read: each of their offsets must be accounted for."""
    sent: list[Place] = field(default_factory=list)
    """What Kafka acknowledged to the publisher."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """The ledger, table by table."""
    accepted: list[Row] = field(default_factory=list)
    """The neighbours' journals."""
    serving: dict[str, int] = field(default_factory=dict)
    """Tenant -> version that the inference service answers from."""
    artefacts: dict[str, Artefact] = field(default_factory=dict)
    """Index path of every live version -> what lies there."""
    data: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tenant with good data -> files and bytes of it."""
    may_fail: frozenset[str] = frozenset()
    """Codes of failures that were planted."""

    def rows(self, table: str) -> list[Row]:
        return self.tables.get(table, [])

    @cached_property
    def runs(self) -> dict[UUID, Row]:
        return {row["run_id"]: row for row in self.rows("runs")}

    @cached_property
    def dead_places(self) -> set[Place]:
        return {place(row) for row in self.rows("dead_letters")}

    @cached_property
    def said(self) -> set[UUID]:
        """Ids of all events that the runtime itself put out."""
        own = {row["event_id"] for row in self.rows("journal") if row["event_id"] is not None}
        return own | {row["event_id"] for row in self.rows("incident_events") if row.get("event_id")}

    def all_records(self) -> Iterator[Record]:
        for records in self.records.values():
            yield from records


def place(row: Row) -> Place:
    return row["topic"], row["partition"], row["offset"]


def grouped(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """Rows by the values of some columns (one column: by its value)."""
    groups: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)].append(row)
    return groups
