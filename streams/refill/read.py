"""One partition's worth of what Kafka knows: our journal entries by tenant, and the foreign events with the ids under which the ledger knows them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import structlog
from aiokafka import ConsumerRecord

from schemas.catalogue import FOREIGN
from schemas.cloudevents import Received, Refused, decode
from schemas.context import Origin, as_uuid
from schemas.tenant import ALL_TENANTS
from streams import journal, names
from streams.folded import Data, Entry
from streams.proof.topics import scan
from streams.settings import KafkaSettings

log = structlog.get_logger(__name__)


class Known(NamedTuple):
    """An entry, and by what the request that it is about would be known again."""

    entry: Entry
    inbox: Data | None


@dataclass(frozen=True, slots=True)
class Heard:
    """A record on a topic that others may write on."""

    topic: str
    partition: int
    offset: int
    key: UUID | None
    """Its inbox key; None for one that is no good event: a worker that reads it again makes a dead letter of it."""
    event_id: UUID | None = None
    tenant_id: str | None = None
    body: bytes = b""
    own: Received | None = None
    """Set when it is our own: a request that came by API, CLI or timer, or what a watcher found."""


@dataclass
class Partition:
    """What was read."""

    tenants: dict[str, dict[int, Known]] = field(default_factory=lambda: defaultdict(dict))
    heard: list[Heard] = field(default_factory=list)
    said: dict[str, dict[UUID, str]] = field(default_factory=lambda: defaultdict(dict))
    """Tenant -> ids of our own events, with their topics."""
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Topic -> offsets [log's start, end)."""
    since: dict[str, datetime] = field(default_factory=dict)
    """Topic -> time of its oldest record."""

    def take(self, record: ConsumerRecord, cluster: str) -> None:
        at = datetime.fromtimestamp((record.timestamp or 0) / 1000, UTC)
        self.since[record.topic] = min(at, self.since.get(record.topic, at))
        if record.topic == journal.TOPIC:
            self._entries(record)
            return
        facts = dict(record.headers)
        if facts.get("ce_source") == names.OURS.encode() and (event := as_uuid(facts.get("ce_id", b"").decode(errors="replace"))):
            self.said[(record.key or b"").decode(errors="replace")][event] = record.topic
        if record.topic in FOREIGN:
            self.heard.append(_heard(record, cluster))

    def _entries(self, record: ConsumerRecord) -> None:
        try:
            tenant_id = record.key.decode()
            for each in orjson.loads(record.value):
                self.tenants[tenant_id][each["seq"]] = Known(_entry(tenant_id, each), each.get("inbox"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            place = {"partition": record.partition, "offset": record.offset}
            log.warning("a record on run.journal is skipped", code="unusable_entry", error=repr(error), **place)


async def read(settings: KafkaSettings, topics: Sequence[str], partition: int, cluster: str) -> Partition:
    """The whole partition of our journal, of what others may say, and of these topics, up to the ends of this moment."""
    found = Partition()
    every = dict.fromkeys([journal.TOPIC, *sorted(FOREIGN), *topics])
    found.spans = await scan(settings, list(every), partition, lambda record: found.take(record, cluster))
    return found


async def latest(settings: KafkaSettings, partition: int, most: int) -> Partition:
    """Only the entries that were published last."""
    found = Partition()
    found.spans = await scan(settings, (journal.TOPIC,), partition, lambda record: found.take(record, ""), last=most)
    return found


def _entry(tenant_id: str, said: dict[str, Any]) -> Entry:
    ids = {name: UUID(said[name]) if said[name] else None for name in ("run_id", "event_id", "causation")}
    at = datetime.fromisoformat(said["at"])
    return Entry(tenant_id, int(said["seq"]), at, kind=said["kind"], topic=said["topic"], data=dict(said["data"]), **ids)


def _heard(record: ConsumerRecord, cluster: str) -> Heard:
    place = (record.topic, record.partition, record.offset)
    try:
        got = decode(record.key, record.value, record.headers, Origin(cluster, *place, record.timestamp))
    except Refused:
        return Heard(*place, None)
    if got.meta.source == names.OURS:
        return Heard(*place, None, got.meta.id, got.event.tenant_id, got.body_hash, got)
    key = names.inbox_key(got.event.tenant_id or ALL_TENANTS, got.meta.source, got.meta.id)
    return Heard(*place, key, got.meta.id, got.event.tenant_id, got.body_hash)
