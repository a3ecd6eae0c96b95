"""The Kafka binding of CloudEvents: binary, structured and bare records, ids, tenants and runs."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import Meta, Origin, Received, Refused, body_hash, decode, encode, event_id
from schemas.event import Event
from schemas.quality import AlertRaised, DqTick
from schemas.training import CacheWarmed, TrainingCompleted, TrainingRequested, TrainingStarted

RUN = UUID("5f0c3f6e-0f4b-5d57-9a0f-3a1c7c1d9e10")
OTHER = UUID("0b8f1a52-7c3e-4f7a-9f1e-2d6c5a4b3c2d")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def at(topic: str, **changes: Any) -> Origin:
    return replace(Origin(cluster="c1", topic=topic, partition=3, offset=42, timestamp_ms=1_772_366_400_000), **changes)


def request(data: Any = None, key: bytes | None = None, origin: Origin | None = None, **headers: str) -> Received:
    value = json.dumps({"tenant_id": "acme"} if data is None else data).encode()
    return decode(key, value, {name: text.encode() for name, text in headers.items()}, origin or at("training.requested"))


def meta(event: Event, **changes: Any) -> Meta:
    return replace(Meta(id=event_id(RUN, "train", 1, event.topic), type=event.topic, source="tidemill", time=NOON), **changes)


def test_what_is_encoded_is_decoded() -> None:
    event = TrainingStarted(tenant_id="acme", run_id=RUN, job_id="job-1", deadline=NOON)
    context = meta(event, causation=OTHER, sequence=17, traceparent=TRACE)
    received = decode(*encode(event, context), at(event.topic))
    assert received.event == event
    assert received.meta == context
    assert received.body_hash == body_hash(event.dump())


def test_our_records_are_cloudevents_in_binary_mode() -> None:
    record = encode(TrainingStarted(tenant_id="acme", run_id=RUN, job_id="job-1"), meta(TrainingStarted(tenant_id="acme", job_id="j"), sequence=17))
    assert record.key == b"acme"
    assert json.loads(record.value) == {"tenant_id": "acme", "run_id": str(RUN), "job_id": "job-1"}
    assert dict(record.headers) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": str(event_id(RUN, "train", 1, "training.started")).encode(),
        "ce_type": b"training.started",
        "ce_source": b"tidemill",
        "ce_subject": str(RUN).encode(),
        "ce_time": b"2026-03-01T12:00:00Z",
        "ce_tenantid": b"acme",
        "ce_sequence": b"00000000000000000017",
    }


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_sequences_sort_as_texts_like_as_numbers(one: int, two: int) -> None:
    event = CacheWarmed(tenant_id="acme", items=1)
    texts = [dict(encode(event, meta(event, sequence=n)).headers)["ce_sequence"] for n in (one, two)]
    assert (texts[0] < texts[1]) == (one < two)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\n:"\\{😀', max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab:é", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("ab:é", max_size=5), json_values, max_size=5))
def test_any_details_travel_unchanged(details: dict[str, Any]) -> None:
    event = AlertRaised(tenant_id="acme", incident=OTHER, severity="high", title="é", details=details)
    received = decode(*encode(event, meta(event)), at(event.topic))
    assert received.event == event
    assert received.body_hash == body_hash(event.dump())


# --- bare records


def test_a_bare_request_needs_only_the_tenant() -> None:
    received = request({"tenant_id": "acme"})
    assert received.event == TrainingRequested(tenant_id="acme")
    assert received.meta.source == "kafka://training.requested"
    assert received.meta.type == "training.requested"
    assert received.meta.time == NOON


def test_a_bare_event_read_again_is_the_same_event() -> None:
    assert request().meta == request().meta


@pytest.mark.parametrize("change", [{"cluster": "c2"}, {"partition": 4}, {"offset": 43}, {"timestamp_ms": 1}], ids=str)
def test_a_bare_event_from_another_place_is_another_event(change: dict[str, Any]) -> None:
    assert request(origin=at("training.requested", **change)).meta.id != request().meta.id


def test_the_key_names_the_tenant_where_the_data_does_not() -> None:
    assert request({"reason": "new data"}, key=b"acme").event == TrainingRequested(tenant_id="acme", reason="new data")
    assert request({}, ce_tenantid="acme").event.tenant_id == "acme"
    assert request({"tenant_id": None}, key=b"acme").event.tenant_id == "acme"


@pytest.mark.parametrize("timestamp", [-1, 2**63 - 1, -(2**63)])
def test_a_record_without_a_sensible_timestamp_is_read_all_the_same(timestamp: int) -> None:
    received = request(origin=at("training.requested", timestamp_ms=timestamp))
    assert received.meta.time.tzinfo is not None
    assert received.meta == request(origin=at("training.requested", timestamp_ms=timestamp)).meta


def test_the_order_of_keys_and_spaces_do_not_make_another_body() -> None:
    one = decode(None, b'{"tenant_id":"acme","reason":"x"}', None, at("training.requested"))
    two = decode(None, b' { "reason" : "x", "tenant_id": "acme" } ', None, at("training.requested"))
    assert one.body_hash == two.body_hash
    assert one.body_hash != request({"tenant_id": "acme", "reason": "y"}).body_hash


# --- ids


def test_a_uuid_is_kept_and_any_other_id_becomes_one_for_its_source() -> None:
    assert request(ce_id=str(OTHER), ce_source="crm").meta.id == OTHER
    assert request(ce_id=str(OTHER).upper(), ce_source="crm").meta.id == OTHER
    mapped = request(ce_id="order-17", ce_source="crm").meta.id
    assert mapped == request(ce_id="order-17", ce_source="crm").meta.id
    assert mapped != request(ce_id="order-17", ce_source="shop").meta.id
    assert mapped != request(ce_id="order-18", ce_source="crm").meta.id


@pytest.mark.parametrize("spelling", ["{%s}", "urn:uuid:%s"])
def test_only_the_usual_spelling_is_a_uuid(spelling: str) -> None:
    assert request(ce_id=spelling % OTHER).meta.id != OTHER


def test_our_own_ids_are_the_same_each_time_and_differ_by_run_stage_round_and_kind() -> None:
    ours = event_id(RUN, "train", 1, "training.started")
    assert ours == event_id(RUN, "train", 1, "training.started") == uuid5(RUN, "train:1:training.started")
    others = {event_id(OTHER, "train", 1, "training.started"), event_id(RUN, "index", 1, "training.started")}
    others |= {event_id(RUN, "train", 2, "training.started"), event_id(RUN, "train", 1, "training.completed")}
    assert len(others | {ours}) == 5


# --- context


def test_times_are_read_with_their_offset() -> None:
    assert request(ce_time="2026-03-01T13:00:00+01:00").meta.time == NOON
    assert request(ce_time="2026-03-01T12:00:00.123456789Z").meta.time == NOON + timedelta(microseconds=123456)
    event = CacheWarmed(tenant_id="acme", items=1)
    record = encode(event, meta(event, time=NOON.astimezone(timezone(timedelta(hours=-5)))))
    assert dict(record.headers)["ce_time"] == b"2026-03-01T12:00:00Z"


def test_a_broken_trace_or_a_foreign_sequence_is_left_out() -> None:
    received = request(traceparent="00-nonsense", ce_sequence="seven")
    assert received.meta.traceparent is None
    assert received.meta.sequence is None
    assert request(ce_sequence="9" * 20).meta.sequence is None


def test_a_second_trace_header_replaces_the_first() -> None:
    headers = [("traceparent", b"\xff"), ("ce_traceparent", b"x"), ("traceparent", TRACE.encode())]
    assert decode(b"acme", b"{}", headers, at("training.requested")).meta.traceparent == TRACE


def test_headers_are_found_in_any_case_and_null_ones_are_passed_over() -> None:
    headers: Any = [("CE_ID", str(OTHER).encode()), ("ce_source", None), ("x-other", b"\xff\xfe"), ("x-other", b"2")]
    received = decode(b"acme", b"{}", headers, at("training.requested"))
    assert received.meta.id == OTHER
    assert received.meta.source == "kafka://training.requested"


# --- runs


def test_the_subject_names_the_run_of_our_events() -> None:
    assert request({"job_id": "j"}, b"acme", at("training.started"), ce_subject=str(RUN)).event.run_id == RUN
    assert request({"job_id": "j", "run_id": str(RUN)}, b"acme", at("training.started"), ce_subject=str(RUN)).event.run_id == RUN


def test_the_subject_of_a_foreign_event_is_no_run() -> None:
    received = request({"job_id": str(OTHER), "status": "completed"}, b"acme", at("training.completed"), ce_subject=str(OTHER))
    assert received.event == TrainingCompleted(tenant_id="acme", job_id=str(OTHER), status="completed")
    assert request(ce_subject="anything at all").event.run_id is None


def test_subject_and_data_must_not_name_two_runs() -> None:
    with pytest.raises(Refused, match="names another run") as refused:
        request({"job_id": "j", "run_id": str(RUN)}, b"acme", at("training.started"), ce_subject=str(OTHER))
    assert refused.value.code == "bad_header"


# --- ticks for everybody


@pytest.mark.parametrize(("key", "data"), [(b"_all", {}), (None, {}), (None, {"tenant_id": None}), (b"_all", {"tenant_id": None})])
def test_a_tick_without_tenant_concerns_everybody(key: bytes | None, data: dict[str, Any]) -> None:
    assert request(data, key, at("dq.tick")).event == DqTick()


def test_a_tick_of_one_tenant_is_for_that_one() -> None:
    assert request({}, b"acme", at("dq.tick")).event == DqTick(tenant_id="acme")
    assert decode(*encode(DqTick(), meta(DqTick())), at("dq.tick")).event == DqTick()


@pytest.mark.parametrize(("key", "data"), [(b"_all", {"tenant_id": "acme"}), (b"acme", {"tenant_id": None})])
def test_a_tick_is_not_for_one_and_for_everybody(key: bytes, data: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        request(data, key, at("dq.tick"))
    assert (refused.value.code, refused.value.tenant_id) == ("tenant_mismatch", None)


# --- structured mode


def envelope(**changes: Any) -> dict[str, Any]:
    whole = {"specversion": "1.0", "id": "order-17", "source": "crm", "type": "training.requested", "tenantid": "acme", "data": {"reason": "x"}}
    return {name: value for name, value in (whole | changes).items() if value is not ...}


def structured(whole: Any, key: bytes | None = None) -> Received:
    headers = [("Content-Type", b"application/cloudevents+json; charset=UTF-8")]
    return decode(key, json.dumps(whole).encode(), headers, at("training.requested"))


def test_a_structured_event_is_the_same_as_a_binary_one() -> None:
    whole = envelope(time="2026-03-01T12:00:00Z", causationid=str(OTHER), traceparent=TRACE)
    context = {"ce_id": "order-17", "ce_source": "crm", "ce_time": "2026-03-01T12:00:00Z", "ce_causationid": str(OTHER), "ce_tenantid": "acme"}
    assert structured(whole) == request({"reason": "x"}, None, None, traceparent=TRACE, **context)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"specversion": ...}, "bad_header"),
        ({"specversion": "0.3"}, "bad_header"),
        ({"specversion": 1.0}, "bad_header"),
        ({"id": 17}, "bad_header"),
        ({"id": ""}, "bad_header"),
        ({"time": "yesterday"}, "bad_header"),
        ({"type": "training.started"}, "unknown_type"),
        ({"data": ...}, "not_an_object"),
        ({"data": "text"}, "not_an_object"),
        ({"data": ..., "data_base64": "e30="}, "not_an_object"),
        ({"tenantid": "../x"}, "bad_tenant"),
        ({"tenantid": ...}, "no_tenant"),
        ({"data": {"tenant_id": "globex"}}, "tenant_mismatch"),
    ],
    ids=str,
)
def test_a_bad_envelope_is_refused_by_name(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        structured(envelope(**changes))
    assert refused.value.code == code


def test_an_envelope_that_is_no_object_is_refused() -> None:
    for whole in ([envelope()], "text", 1, None):
        with pytest.raises(Refused, match="not_an_object"):
            structured(whole)


def test_the_key_must_agree_with_the_envelope() -> None:
    assert structured(envelope(), b"acme").event.tenant_id == "acme"
    with pytest.raises(Refused, match="tenant_mismatch"):
        structured(envelope(), b"globex")
