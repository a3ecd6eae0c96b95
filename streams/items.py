"""What the ledger is told of a record or a request: the items that `receive` takes, one function a kind."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from schemas.cloudevents import Received, Refused
from schemas.event import Event
from schemas.tenant import ALL_TENANTS
from streams import names
from streams.pipelines import Pipelines
from streams.records import header_facts
from streams.stage import Pipeline

Item = dict[str, Any]
Where = tuple[str, int, int]
"""A record's topic, partition and offset."""
KEPT_BYTES = 1 << 20
"""Of a dead letter's value; the rest is cut, its size and sha256 are kept."""


class Arrived(NamedTuple):
    """A record as it came from Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    @property
    def where(self) -> Where:
        return self.topic, self.partition, self.offset


def foreign_item(pipelines: Pipelines, received: Received, *, worker: UUID | None) -> Item | None:
    """The ledger item of a fact that others may publish; None when no pipeline of ours wants it. `worker` may be leased what follows."""
    event, meta = received.event, received.meta
    if meta.type in pipelines.by_entry and event.tenant_id is not None:
        pipeline = pipelines.by_entry[meta.type]
        item = request_item(pipelines, pipeline, event, meta.id, meta.source, received.body_hash, meta.traceparent)
        # of what gathers the dispatcher claims many at once; leased here, each would be a call of its own
        item |= {"worker": None if pipeline.gathers else worker, "create": pipelines.settings.runtime.unknown_tenants == "create"}
    elif meta.type in pipelines.by_entry:
        item = expansion_item(pipelines.by_entry[meta.type], event, meta.id, meta.source, received.body_hash)
    elif meta.type in pipelines.completions and getattr(event, "job_id", None):
        item = completion_item(pipelines, received, worker)
    else:
        return None
    return {key: value for key, value in item.items() if value is not None}


def request_item(
    pipelines: Pipelines, pipeline: Pipeline, event: Event, event_id: UUID, source: str, body_hash: bytes, traceparent: str | None = None
) -> Item:
    """The ledger item of a request, whoever made it: Kafka, API, CLI or timer (`accept()` is this item through `Ledger.receive`)."""
    run = names.run_id(pipeline.name, event.tenant_id, event_id)
    return {
        "kind": "request",
        "event_key": names.inbox_key(event.tenant_id, source, event_id),
        "event_id": event_id,
        "body": body_hash.hex(),
        "tenant": event.tenant_id,
        "topic": event.topic,
        "pipeline": pipeline.name,
        "version": pipeline.version,
        "run_id": run,
        "first": pipelines.first(pipeline),
        "data": event.dump(),
        "accepted_id": names.event_id(run, "accept", 0, "run.accepted"),
        "traceparent": traceparent,
    }


def expansion_item(pipeline: Pipeline, event: Event, event_id: UUID, source: str, body_hash: bytes) -> Item:
    """The ledger item of a request for all active tenants."""
    return {
        "kind": "expansion",
        "event_key": names.inbox_key(ALL_TENANTS, source, event_id),
        "event_id": event_id,
        "body": body_hash.hex(),
        "topic": event.topic,
        "pipeline": pipeline.name,
        "source": source,
        "data": event.dump(),
    }


def completion_item(pipelines: Pipelines, received: Received, worker: UUID | None) -> Item:
    """The ledger item of a completion from outside; `worker` may be leased the step that follows."""
    event, meta = received.event, received.meta
    waiting = pipelines.completions[meta.type]
    pipeline, stage = waiting[0]
    assert stage.watcher is not None
    job_id: str = event.job_id  # type: ignore[attr-defined]  # the caller saw that it has one
    return {
        "kind": "completion",
        "event_key": names.inbox_key(event.tenant_id, meta.source, meta.id),
        "event_id": meta.id,
        "body": received.body_hash.hex(),
        "tenant": event.tenant_id,
        "topic": meta.type,
        "engine": stage.watcher.engine,
        "job_id": job_id,
        "data": event.dump(),
        "failed": event.failure is not None,
        "next": {s.name: after for p, s in waiting if (after := pipelines.next(p, s.name))},
        "first": pipelines.first(pipeline),
        "finish_id": names.finish_event(meta.id, stage.name, 0),
        "worker": worker,
    }


def dead_item(record: Arrived, refusal: Refused, cluster: str) -> Item:
    """The ledger item of a record that cannot be used."""
    value = record.value or b""
    return {
        "kind": "dead",
        "id": names.dead_letter(cluster, record.topic, record.partition, record.offset, record.timestamp_ms),
        "cluster": cluster,
        "timestamp_ms": record.timestamp_ms,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "tenant": refusal.tenant_id,
        "key": (record.key or b"")[:4096].hex(),
        "value": value[:KEPT_BYTES].hex(),
        "size": len(value),
        "sha256": hashlib.sha256(value).hexdigest(),
        "headers": header_facts(record.headers),
        "code": refusal.code,
        "sentence": refusal.sentence,
        "covers": covers(record),
    }


def place(record: Arrived) -> Item:
    """Where a record was read, for the item that it became."""
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset, "covers": covers(record)}


def covers(record: Arrived) -> Item:
    return {"topic": record.topic, "partition": record.partition, "first": record.offset, "next": record.offset + 1}


def not_ours(record: Arrived, tenant_id: str | None) -> Refused:
    place = f"partition {record.partition}, offset {record.offset}"
    sentence = f"{record.topic} is written by Tidemill alone, and this event ({place}) is none of ours; find its publisher"
    return Refused("not_ours", sentence, tenant_id)


def refusal_sentence(code: str, event: Event) -> str:
    """Why the ledger refused a good event, and what to do."""
    tenant = event.tenant_id
    return {
        "unknown_tenant": f"there is no tenant {tenant}; add it with `tidemill tenants add {tenant}`, then redrive the dead letter",
        "tenant_suspended": f"tenant {tenant} is suspended; `tidemill tenants resume {tenant}`, then redrive the dead letter",
        "tenant_deleted": f"tenant {tenant} was deleted; drop the dead letter",
        "key_reused": f"an event of {tenant} with this id was accepted before with another body; publish it with an id of its own",
    }.get(code, f"the ledger refused it ({code})")
