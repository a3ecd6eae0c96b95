"""The codec, first and last step of every event's way: Kafka records to checked events, and events to records."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from pydantic import ValidationError

from schemas.catalogue import EVENTS, FOREIGN
from schemas.context import Attributes, Headers, Meta, Origin, as_uuid, from_envelope, from_headers, read_meta, to_headers
from schemas.event import Event
from schemas.json_strict import INT8, Flaw, canonical, parse
from schemas.quality import DqTick
from schemas.tenant import ALL_TENANTS, is_tenant_id

__all__ = ["Headers", "Meta", "Origin", "Received", "Record", "Refused", "body_hash", "decode", "encode", "event_id"]

STRUCTURED = "application/cloudevents+json"
_NOBODYS = frozenset({"bad_tenant", "tenant_mismatch"})


class Record(NamedTuple):
    """What goes to Kafka."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Received:
    """A record that is a good event."""

    event: Event
    meta: Meta
    body_hash: bytes
    """sha256 of the data as the publisher sent it, in canonical JSON: same id with another hash is another event."""


class Refused(Exception):
    """A record that is no good event: a code, a sentence for whoever is paged, and whose it is if that is certain."""

    def __init__(self, code: str, sentence: str, tenant_id: str | None = None) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.tenant_id = tenant_id


def encode(event: Event, meta: Meta) -> Record:
    """The event as a binary-mode record, keyed by tenant."""
    value = event.model_dump_json(by_alias=True, exclude_none=True).encode()
    return Record(event.key.encode(), value, to_headers(meta, event.run_id, event.tenant_id))


def decode(key: bytes | None, value: bytes | None, headers: Headers | None, origin: Origin) -> Received:
    """The event in a record; raises `Refused`, and nothing else, whatever the bytes are."""
    claims = _Claims(all_allowed=origin.topic == DqTick.topic)
    try:
        return _decode(key, value, headers, origin, claims)
    except Flaw as found:
        flaw = found
    tenant = None if flaw.code in _NOBODYS else claims.tenant
    place = f"record {origin.offset} of partition {origin.partition} of {origin.topic} was refused"
    raise Refused(flaw.code, f"{place}: {flaw.sentence}", tenant)


def event_id(run_id: UUID, stage: str, round: int, kind: str) -> UUID:
    """The id of an event of ours: the same run, stage and round publish the same event however often they are tried."""
    return uuid5(run_id, f"{stage}:{round}:{kind}")


def body_hash(data: dict[str, Any]) -> bytes:
    """What tells two bodies under one id apart."""
    return sha256(canonical(data)).digest()


class _Claims:
    """Whose event it is, by all that say so: they must agree."""

    __slots__ = ("_all_allowed", "_said")

    def __init__(self, *, all_allowed: bool) -> None:
        self._all_allowed = all_allowed
        self._said: str | None = None

    def add(self, where: str, said: object) -> None:
        if not is_tenant_id(said) and not (self._all_allowed and said == ALL_TENANTS):
            raise Flaw("bad_tenant", f"the {where} is not a tenant id: 2 to 63 of a-z, 0-9 and '-', a letter or digit first; correct it")
        if self._said is not None and said != self._said:
            raise Flaw("tenant_mismatch", f"the {where} names another tenant than the rest of the record; key, ce_tenantid and data must agree")
        self._said = str(said)

    @property
    def tenant(self) -> str | None:
        return None if self._said == ALL_TENANTS else self._said


def _decode(key: bytes | None, value: bytes | None, headers: Headers | None, origin: Origin, claims: _Claims) -> Received:
    kind = EVENTS.get(origin.topic)
    if kind is None:
        raise Flaw("unknown_type", "no event belongs on this topic; publish to one that `tidemill topics` lists")
    if key is not None:
        claims.add("key", key.decode("ascii", "replace"))
    said = from_headers(headers)
    if "tenantid" in said:
        claims.add("ce_tenantid", said["tenantid"])
    data = parse(value, duplicates=origin.topic in FOREIGN)
    if said.get("content-type", "").lower().startswith(STRUCTURED):
        said, data = _open(data, claims)
    if type(data) is not dict:
        raise Flaw("not_an_object", "the data is not a JSON object; publish an object with the fields of the event")
    meta = read_meta(said, origin)
    event = _build(kind, _complete(data, said, origin.topic, claims))
    return Received(event, meta, body_hash(data))


def _open(envelope: Any, claims: _Claims) -> tuple[Attributes, Any]:
    """The attributes and the data of a structured-mode envelope."""
    if type(envelope) is not dict:
        raise Flaw("not_an_object", "the structured CloudEvent is not a JSON object")
    said = from_envelope(envelope)
    if "tenantid" in said:
        claims.add("tenantid", said["tenantid"])
    return said, envelope.get("data")


def _complete(data: dict[str, Any], said: Attributes, topic: str, claims: _Claims) -> dict[str, Any]:
    """The data with tenant and run filled in from key and context where the publisher left them out."""
    if data.get("tenant_id") is not None:
        claims.add("tenant_id in the data", data["tenant_id"])
    elif "tenant_id" in data and topic == DqTick.topic:
        claims.add("tenant_id in the data", ALL_TENANTS)
    if claims.tenant is None and topic != DqTick.topic:
        raise Flaw("no_tenant", "neither key nor data names a tenant; set the key, or tenant_id in the data, and publish again")
    return {**data, "tenant_id": claims.tenant, "run_id": _run(data.get("run_id"), said.get("subject"), topic)}


def _run(in_data: Any, subject: str | None, topic: str) -> Any:
    """The run the event is about; a foreign publisher's subject may be anything, a job id say, and is no run."""
    run = None if topic in FOREIGN else as_uuid(subject)
    if in_data is None:
        return run
    if run is not None and in_data != str(run):
        raise Flaw("bad_header", "ce_subject names another run than run_id in the data; they must agree")
    return in_data


def _build(kind: type[Event], data: dict[str, Any]) -> Event:
    try:
        event = kind.model_validate(data)
    except ValidationError as error:
        reasons = list(_reasons(error))
    else:
        reasons = list(_unstorable(event))
    if reasons:
        raise Flaw("bad_field", f"{'; '.join(reasons[:5])}; correct the fields and publish again")
    return event


def _reasons(error: ValidationError) -> Iterator[str]:
    for part in error.errors(include_url=False, include_context=False, include_input=False):
        why = part["msg"]
        if part["type"].endswith("_parsing"):
            why = why.partition(",")[0]  # the rest may quote the value
        yield f"{'.'.join(map(str, part['loc']))}: {why}"


def _unstorable(event: Event) -> Iterator[str]:
    """Fields that pydantic made out of texts, and PostgreSQL would refuse."""
    for name, value in event.__dict__.items():
        if type(value) is int and not -INT8 <= value < INT8:
            yield f"{name}: does not fit into 64 bits"
        elif type(value) is datetime and not _is_moment(value):
            yield f"{name}: is not a time with an offset"


def _is_moment(time: datetime) -> bool:
    try:
        return time.tzinfo is not None and bool(time.astimezone(UTC))
    except (OverflowError, ValueError):
        return False
