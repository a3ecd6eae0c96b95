"""The CloudEvents context of a record: headers (or a structured envelope) to `Meta`, and back to headers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from schemas.json_strict import INT8, Flaw

NAMESPACE = UUID("8a9e2c4e-54a3-5d0c-9a5e-6c1f0b7f2d11")
"""Of all ids that are derived: the same facts give the same id in every worker and for ever."""
MAX_ATTRIBUTE = 512
"""Characters in one context attribute."""

Headers = Sequence[tuple[str, bytes]] | Mapping[str, bytes]
Attributes = dict[str, str]
"""CloudEvents attributes by their names in the specification: id, type, source, time, subject, tenantid …"""

_BINARY = {f"ce_{name}": name for name in ("specversion", "id", "type", "source", "subject", "time", "tenantid", "causationid", "sequence")}
_BINARY |= {"traceparent": "traceparent", "ce_traceparent": "traceparent", "content-type": "content-type"}
_STRUCTURED = frozenset(_BINARY.values()) - {"content-type"}
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SEQUENCE = re.compile(r"[0-9]{1,20}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Meta:
    """The CloudEvents context of one event."""

    id: UUID
    """Always a UUID: a publisher's id that is none is mapped to one, the same each time."""
    type: str
    """The topic."""
    source: str
    """`tidemill` for our own events, `kafka://topic` for those that do not say."""
    time: datetime
    causation: UUID | None = None
    sequence: int | None = None
    """The tenant's journal number: readers order one tenant's events by it, not by arrival."""
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read."""

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def from_headers(headers: Headers | None) -> Attributes:
    """The attributes of a binary-mode record; headers that are not ours are left alone."""
    found: Attributes = {}
    for header, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        name = _BINARY.get(header) or _BINARY.get(header.lower())
        if name is None or value is None:
            continue
        if name == "traceparent":  # tracers add theirs to what is there already: the last one counts
            found[name] = value.decode("ascii", "replace")
            continue
        if name in found:
            raise Flaw("bad_header", f"header {header.lower()} is there twice; send it once")
        found[name] = _attribute(name, _utf8(name, value))
    return found


def from_envelope(envelope: Mapping[str, Any]) -> Attributes:
    """The attributes of a structured-mode event, whose value is the whole envelope."""
    if envelope.get("specversion") is None:
        raise Flaw("bad_header", "the envelope has no specversion; a structured CloudEvent needs specversion, id, source and type")
    return {name: _attribute(name, envelope[name]) for name in _STRUCTURED if envelope.get(name) is not None}


def to_headers(meta: Meta, run_id: UUID | None, tenant_id: str | None) -> list[tuple[str, bytes]]:
    """The headers of a record in binary mode."""
    run, causation = str(run_id) if run_id else None, str(meta.causation) if meta.causation else None
    return written(str(meta.id), meta.type, meta.source, in_utc(meta.time), run, tenant_id, causation, meta.sequence, meta.traceparent)


def written(
    id: str, type: str, source: str, time: str, run: str | None, tenant: str | None, causation: str | None, sequence: int | None, trace: str | None
) -> list[tuple[str, bytes]]:
    """The headers of a record whose context is texts already; `time` in UTC, with a Z."""
    headers = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", time.encode()),
    ]
    if run is not None:
        headers.append(("ce_subject", run.encode()))
    if tenant is not None:
        headers.append(("ce_tenantid", tenant.encode()))
    if causation is not None:
        headers.append(("ce_causationid", causation.encode()))
    if sequence is not None:
        headers.append(("ce_sequence", b"%020d" % sequence))  # padded: the texts sort like the numbers
    if trace is not None:
        headers.append(("traceparent", trace.encode()))
    return headers


def in_utc(time: datetime) -> str:
    """A moment as CloudEvents write it."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def read_meta(said: Attributes, origin: Origin) -> Meta:
    """What the publisher said about the event, with what it left out taken from the place of the record."""
    if said.get("specversion", "1.0") != "1.0":
        raise Flaw("bad_header", "specversion is not 1.0; publish CloudEvents 1.0")
    _check_type(said.get("type", origin.topic), origin.topic)
    source = said.get("source") or f"kafka://{origin.topic}"
    traceparent, sequence = said.get("traceparent", ""), said.get("sequence", "")
    return Meta(
        id=_id(said["id"], source) if "id" in said else _id_of_place(origin),
        type=origin.topic,
        source=source,
        time=_time(said["time"]) if "time" in said else _time_of_record(origin.timestamp_ms),
        causation=_id(said["causationid"], source) if "causationid" in said else None,
        sequence=int(sequence) if _SEQUENCE.fullmatch(sequence) and int(sequence) < INT8 else None,
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,  # W3C: an invalid one is dropped, not an error
    )


def as_uuid(text: str | None) -> UUID | None:
    """The UUID that `text` spells in the usual way with hyphens, else None."""
    return UUID(text) if text is not None and _UUID.fullmatch(text) else None


def _utf8(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass
    raise Flaw("bad_header", f"attribute {name} is not UTF-8")


def _attribute(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise Flaw("bad_header", f"attribute {name} is not a text")
    if name == "tenantid":  # it has a stricter rule and a code of its own
        return text
    if not text or len(text) > MAX_ATTRIBUTE:
        raise Flaw("bad_header", f"attribute {name} has {len(text)} characters, allowed are 1 to {MAX_ATTRIBUTE}")
    if not text.isprintable():  # no line breaks in logs, no NUL in PostgreSQL, no reversed text on a page
        raise Flaw("bad_header", f"attribute {name} has control characters; send printable text")
    return text


def _check_type(type_: str, topic: str) -> None:
    if type_ == topic:
        return
    if re.fullmatch(re.escape(topic) + r"\.v[0-9]{1,4}", type_):
        raise Flaw("unknown_type", f"its schema, {type_}, is newer than this worker reads; upgrade the workers, then redrive the dead letter")
    raise Flaw("unknown_type", f"its type does not belong on this topic; publish it on the topic of its type, or with the type {topic}")


def _id(text: str, source: str) -> UUID:
    return as_uuid(text) or uuid5(NAMESPACE, f"{source}\n{text}")


def _id_of_place(origin: Origin) -> UUID:
    """The id of an event whose publisher gave none: read again, it is the same event."""
    return uuid5(NAMESPACE, f"{origin.cluster}\n{origin.topic}\n{origin.partition}\n{origin.offset}\n{origin.timestamp_ms}")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Flaw("bad_header", "attribute time is not an RFC 3339 time with an offset, such as 2026-01-31T02:00:00Z")


def _time_of_record(timestamp_ms: int) -> datetime:
    """Kafka's time of the record; a record without one, or with nonsense, was published at the epoch, each time it is read."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
