"""Outbox rows as Kafka records: an event, the state of a run, a dead letter."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from schemas.cloudevents import Record
from schemas.context import NAMESPACE, Meta, in_utc, to_headers, written
from schemas.tenant import is_tenant_id
from streams.names import OURS

Row = dict[str, Any]
STATE_TOPIC = "run.state"
DEAD_TOPIC = "dead.letters"


def event_record(row: Row) -> Record:
    """The event in an outbox row, keyed by tenant."""
    tenant, named = row["tenant_id"], row["tenant_id"] if is_tenant_id(row["tenant_id"]) else None
    time = in_utc(datetime.fromisoformat(row["at"]))
    headers = written(row["event_id"], row["topic"], OURS, time, row["run_id"], named, row["causation"], row["seq"], row["traceparent"])
    return Record(tenant.encode(), row["value"].encode(), headers)


def state_record(state: Row, at: datetime) -> Record:
    """A run's whole state; its version is the tenant's journal number, and the last one wins."""
    tenant, run = state["tenant_id"], UUID(state["run_id"])
    meta = Meta(id=uuid5(NAMESPACE, f"state\n{run}\n{state['version']}"), type=STATE_TOPIC, source=OURS, time=at, sequence=state["version"])
    return Record(tenant.encode(), orjson.dumps(state), to_headers(meta, run, tenant))


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


def header_facts(headers: Sequence[tuple[str, bytes | None]]) -> list[list[str]]:
    """Headers as the ledger keeps them: names as text that it can store, values in base64, bounded; null ones say nothing and are left out."""
    told = [(name, value) for name, value in headers if value is not None]
    return [[name[:200].replace("\0", "\ufffd"), base64.b64encode(value[:4096]).decode()] for name, value in told[:64]]
