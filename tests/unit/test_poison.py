"""Bytes that no publisher should send: each is refused by name, none crashes the reader, holds it up or leaks into the error."""

import json
import traceback
from contextlib import suppress
from time import thread_time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.catalogue import EVENTS
from schemas.cloudevents import Headers, Origin, Received, Refused, decode
from schemas.json_strict import MAX_BYTES, MAX_DEPTH, MAX_ITEMS
from schemas.tenant import is_tenant_id

TOPIC = "training.requested"
SECRET = "s3cr3t"


def read(value: bytes | None, key: bytes | None = b"acme", headers: Headers | None = None, topic: str = TOPIC) -> Received:
    return decode(key, value, headers, Origin("c1", topic, 3, 42, 1_772_366_400_000))


def refused(value: bytes | None, key: bytes | None = b"acme", headers: Headers | None = None, topic: str = TOPIC) -> Refused:
    with pytest.raises(Refused) as caught:
        read(value, key, headers, topic)
    return caught.value


def read_or_refuse(value: bytes | None, key: bytes | None, headers: Headers, topic: str) -> Received | Refused:
    try:
        return read(value, key, headers, topic)
    except Refused as error:
        return error


def nested(levels: int) -> bytes:
    """An object whose containers are `levels` deep."""
    return b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


POISON = {
    "null value": (None, "empty_value"),
    "empty value": (b"", "empty_value"),
    "invalid JSON": (b'{"tenant_id": "acme"', "bad_json"),
    "two documents": (b"{}{}", "bad_json"),
    "trailing comma": (b'{"a":1,}', "bad_json"),
    "single quotes": (b"{'a':1}", "bad_json"),
    "spaces only": (b"   ", "bad_json"),
    "raw control character": (b'{"a":"\x01"}', "bad_json"),
    "byte order mark": (b"\xef\xbb\xbf{}", "bad_json"),
    "Avro's magic byte": (b"\x00\x00\x00\x00\x01{}", "bad_json"),
    "UTF-16": ('{"é": 1}'.encode("utf-16"), "bad_utf8"),
    "bad UTF-8": (b'{"reason":"\xff"}', "bad_utf8"),
    "overlong UTF-8": (b'{"reason":"\xc0\x80"}', "bad_utf8"),
    "surrogates in UTF-8": (b'{"reason":"\xed\xa0\x80"}', "bad_utf8"),
    "list": (b"[]", "not_an_object"),
    "text": (b'"acme"', "not_an_object"),
    "number": (b"17", "not_an_object"),
    "JSON null": (b"null", "not_an_object"),
    "NaN": (b'{"x":NaN}', "bad_number"),
    "Infinity": (b'{"x":[-Infinity]}', "bad_number"),
    "float overflow": (b'{"x":1e999}', "bad_number"),
    "integer past int8": (b'{"x":9223372036854775808}', "bad_number"),
    "integer past minus int8": (b'{"x":-9223372036854775809}', "bad_number"),
    "integer past 64 bits": (b'{"x":18446744073709551616}', "bad_number"),
    "integer of 5000 digits": (b'{"x":' + b"9" * 5000 + b"}", "bad_number"),
    "duplicate keys": (b'{"reason":"a","reason":"b"}', "duplicate_keys"),
    "duplicate keys, one escaped": (b'{"reason":"a","r\\u0065ason":"b"}', "duplicate_keys"),
    "duplicate keys below": (b'{"x":[{"y":1,"y":1}]}', "duplicate_keys"),
    "duplicate keys among colons": (b'{"x":"::::","y":1,"y":2}', "duplicate_keys"),
    "NUL": (b'{"reason":"a\\u0000b"}', "bad_text"),
    "NUL in a key": (b'{"a\\u0000":1}', "bad_text"),
    "NUL below": (b'{"x":[{"y":["\\u0000"]}]}', "bad_text"),
    "lone high surrogate": (b'{"reason":"\\ud83d"}', "bad_text"),
    "lone low surrogate in a key": (b'{"\\ude00":1}', "bad_text"),
    "one level too deep": (nested(MAX_DEPTH + 1), "too_deep"),
    "a thousand levels": (nested(1000), "too_deep"),
    "ten thousand open lists": (b"[" * 10_000, "too_deep"),
    "ten thousand open objects": (b'{"a":' * 10_000, "too_deep"),
    "half a million open lists": (b"[" * 500_000, "too_many_items"),
    "too many items": (b'{"x":[' + b"0," * (MAX_ITEMS - 1) + b"0]}", "too_many_items"),
    "half a million empty lists": (b"[" + b"[]," * 300_000 + b"[]]", "too_many_items"),
    "a list of a million": (json.dumps([0] * 1_000_000).encode(), "too_large"),
    "one byte too many": (b'{"reason":"' + b"a" * (MAX_BYTES - 12) + b'"}', "too_large"),
    "ten megabytes": (b"a" * 10_000_000, "too_large"),
}


@pytest.mark.parametrize(("value", "code"), POISON.values(), ids=list(POISON))
def test_poison_is_refused_by_name(value: bytes | None, code: str) -> None:
    error = refused(value)
    assert error.code == code
    assert error.tenant_id == "acme", "the key says whose it is, so the tenant can see it"
    assert error.sentence.startswith(f"record 42 of partition 3 of {TOPIC} was refused: ")
    assert len(error.sentence) < 400


GOOD = {
    "as deep as allowed": nested(MAX_DEPTH),
    "as many items as allowed": b'{"x":[' + b"0," * (MAX_ITEMS - 2) + b"0]}",
    "greatest integers": b'{"x":[9223372036854775807,-9223372036854775808]}',
    "great floats": b'{"x":[1e300,-1.5e19,9223372036854775808.0,5e-324,1e-999]}',
    "whole surrogate pair": b'{"reason":"\\ud83d\\ude00"}',
    "backslash before u0000": b'{"reason":"\\\\u0000"}',
    "colons": b'{"reason":"12:00:00 at http://x:1"}',
    "same key in two objects": b'{"x":{"a":1},"y":[{"a":1},{"a":1}]}',
}


@pytest.mark.parametrize("value", GOOD.values(), ids=list(GOOD))
def test_what_is_only_unusual_is_accepted(value: bytes) -> None:
    assert read(value).event.tenant_id == "acme"


def test_a_value_of_just_the_limit_is_parsed() -> None:
    error = refused(b'{"reason":"' + b"a" * (MAX_BYTES - 13) + b'"}')
    assert error.code == "bad_field"
    assert "reason: String should have at most 2000 characters" in error.sentence


# --- fields, types and headers


FIELDS = [
    (TOPIC, {"request_key": 17}, "request_key"),
    (TOPIC, {"model_config": {"epochs": 0}}, "model_config.epochs"),
    (TOPIC, {"model_config": [SECRET]}, "model_config"),
    (TOPIC, {"slot": SECRET}, "slot"),
    (TOPIC, {"slot": "2026-03-01T02:00:00"}, "slot"),
    (TOPIC, {"slot": "0001-01-01T00:00:00+14:00"}, "slot"),
    (TOPIC, {"run_id": SECRET}, "run_id"),
    ("training.completed", {"job_id": "j", "status": SECRET}, "status"),
    ("training.completed", {"status": "completed"}, "job_id"),
    ("training.completed", {"job_id": "j" * 201, "status": "completed"}, "job_id"),
    ("training.completed", {"job_id": "j", "status": "completed", "metrics": SECRET}, "metrics"),
    ("index.built", {"index_path": "i", "vectors": 0, "dim": 4, "kind": "IVF", "sha256": "0" * 64}, "vectors"),
    ("index.built", {"index_path": "i", "vectors": "9" * 25, "dim": 4, "kind": "IVF", "sha256": "0" * 64}, "vectors"),
    ("index.built", {"index_path": "i", "vectors": 1, "dim": 4, "kind": "IVF", "sha256": SECRET}, "sha256"),
    ("index.built", {"index_path": "i", "vectors": 1, "dim": 4, "kind": "IVF", "sha256": "0" * 64, "recall": "nan"}, "recall"),
]


@pytest.mark.parametrize(("topic", "data", "field"), FIELDS)
def test_a_wrong_field_is_named_and_its_value_is_not(topic: str, data: dict[str, Any], field: str) -> None:
    error = refused(json.dumps(data).encode(), topic=topic)
    assert error.code == "bad_field"
    assert f"{field}: " in error.sentence
    assert SECRET not in error.sentence


def test_the_allowed_values_of_a_field_are_all_named() -> None:
    error = refused(b'{"job_id":"j","status":"done"}', topic="training.completed")
    assert "'completed', 'failed' or 'cancelled'" in error.sentence


def test_a_thousand_wrong_fields_make_no_long_sentence() -> None:
    error = refused(
        json.dumps({"job_id": 1, "status": 1, "model_path": 1, "metrics": 1, "error": 1, "run_id": 1}).encode(), topic="training.completed"
    )
    assert len(error.sentence) < 600


@pytest.mark.parametrize("said", ["training.requested.v2", "training.started", "com.example.order", "x" * 400])
def test_a_type_that_does_not_belong_on_the_topic_is_refused(said: str) -> None:
    error = refused(b"{}", headers={"ce_type": said.encode()})
    assert (error.code, error.tenant_id) == ("unknown_type", "acme")


def test_an_event_of_a_newer_schema_asks_for_newer_workers() -> None:
    assert "upgrade the workers" in refused(b"{}", headers={"ce_type": b"training.requested.v2"}).sentence


@pytest.mark.parametrize("topic", ["orders", "run.state", "dead.letters", "training.requested.v2", ""])
def test_a_topic_without_events_is_refused(topic: str) -> None:
    assert refused(b"{}", topic=topic).code == "unknown_type"


HEADERS = [
    [("ce_specversion", b"2.0")],
    [("ce_specversion", b"")],
    [("ce_id", b"")],
    [("ce_id", b"x" * 513)],
    [("ce_id", b"\xff")],
    [("ce_id", b"a\nce_tenantid: globex")],
    [("ce_id", b"a\x00b")],
    [("ce_id", "a\u202eb".encode())],
    [("ce_id", b"1"), ("ce_id", b"2")],
    [("ce_source", b"x" * 513)],
    [("ce_subject", b"x" * 10_000)],
    [("ce_time", b"noon")],
    [("ce_time", b"2026-03-01T02:00:00")],
    [("ce_time", b"2026-13-01T02:00:00Z")],
    [("ce_time", b"0001-01-01T00:00:00+14:00")],
    [("ce_time", b"9" * 500)],
    [("ce_causationid", b"\x7f")],
    [("ce_tenantid", b"acme"), ("CE_TENANTID", b"acme")],
    [("content-type", b"\xff")],
]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: str(headers)[:60])
def test_a_bad_header_is_refused_by_name(headers: list[tuple[str, bytes]]) -> None:
    error = refused(b"{}", headers=headers)
    assert (error.code, error.tenant_id) == ("bad_header", "acme")
    assert "globex" not in error.sentence


# --- whose event it is

ATTACKS = [
    "", "a", "-a", "..", "../x", "a/b", "a\\b", "%2e%2e%2f", "%252e%252e%252f", "a\0", "ac\0me", "acme\n", "\nacme", "acme ", "acme\r\nx: y",
    "\u0430cme", "\uff41cme", "acmé", "acme\u202e", "acme\u200b", "Acme", "ACME", "a" * 64, "a" * 10_000, "_all", "_internal", "__proto__", "con.txt",
    "a'; drop table runs; --", 'a"b', "$.tenant", "{tenant}", "a,b", "a=b", "a;b", "a*", "a?", "<script>", "${jndi:x}", "a:b", "\u0663\u0663",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack)[:30])
@pytest.mark.parametrize("door", ["key", "header", "data", "envelope"])
def test_a_bad_tenant_id_is_refused_before_any_use_and_never_repeated(attack: str, door: str) -> None:
    if door == "key":
        error = refused(b"{}", attack.encode())
    elif door == "header":
        error = refused(b"{}", None, [("ce_tenantid", attack.encode())])
    elif door == "data":
        error = refused(json.dumps({"tenant_id": attack}).encode(), None)
    else:
        whole = {"specversion": "1.0", "tenantid": attack, "data": {}}
        error = refused(json.dumps(whole).encode(), None, [("content-type", b"application/cloudevents+json")])
    in_json = door in ("data", "envelope")
    assert error.code == ("bad_text" if in_json and "\0" in attack else "bad_tenant")
    assert error.tenant_id is None
    assert len(attack) <= 3 or attack not in str(error)
    assert error.sentence.isprintable()


@pytest.mark.parametrize("thing", [17, True, False, 1.5, ["acme"], {"acme": 1}, {}])
def test_a_tenant_id_is_a_text(thing: object) -> None:
    assert refused(json.dumps({"tenant_id": thing}).encode(), None).code == "bad_tenant"


@pytest.mark.parametrize("key", [b"\xff\xfe", b'"acme"', b"\x00\x00\x00\x01", b"acme\xff"])
def test_a_key_of_odd_bytes_is_no_tenant(key: bytes) -> None:
    assert refused(b'{"tenant_id":"acme"}', key).code == "bad_tenant"


def test_a_record_that_names_no_tenant_is_refused() -> None:
    for value in (b"{}", b'{"tenant_id":null}', b'{"tenant":"acme"}'):
        error = refused(value, None)
        assert (error.code, error.tenant_id) == ("no_tenant", None)


@pytest.mark.parametrize(
    ("key", "header", "data"), [("globex", None, "acme"), (None, "globex", "acme"), ("globex", "acme", None), ("acme", "acme", "globex")]
)
def test_all_that_name_a_tenant_must_agree_and_else_it_is_nobodys(key: str | None, header: str | None, data: str | None) -> None:
    headers = {"ce_tenantid": header.encode()} if header else None
    error = refused(json.dumps({"tenant_id": data} if data else {}).encode(), key.encode() if key else None, headers)
    assert (error.code, error.tenant_id) == ("tenant_mismatch", None), "neither tenant may see what may be the other's"
    assert "acme" not in error.sentence
    assert "globex" not in error.sentence


# --- nothing leaks, nothing else is raised, nothing takes long


@pytest.mark.parametrize(
    "value",
    [b'{"a":"s3cr3t"', b'{"a":"s3cr3t\xff"}', b'{"a":"s3cr3t","b":NaN}', b'{"s3cr3t":1,"s3cr3t":2}', b'{"slot":"s3cr3t"}', b'"s3cr3t"'],
)
def test_neither_the_error_nor_what_hangs_on_it_holds_the_payload(value: bytes) -> None:
    error = refused(value)
    assert error.__cause__ is None
    assert error.__context__ is None, "a decoder's error holds the whole document"
    source = "".join(traceback.format_exception_only(error))
    assert SECRET not in source
    assert SECRET not in repr(error)


field_names = st.sampled_from(sorted({name for kind in EVENTS.values() for name in kind.model_fields} | {"model_config", "specversion", "data"}))
json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6) | field_names, inner, max_size=6),
    max_leaves=20,
)
fields = st.dictionaries(field_names, json_text, max_size=6).map(lambda data: json.dumps(data).encode())
noise = st.binary() | st.text('{}[]":,\\u0d8e-+.1ntf ').map(str.encode) | json_text.map(lambda data: json.dumps(data).encode())
names = st.sampled_from(
    ["ce_id", "ce_type", "ce_source", "ce_time", "ce_tenantid", "ce_subject", "ce_specversion", "ce_sequence", "traceparent", "Ce_Id"]
)
header = st.tuples(names | st.text(), st.binary() | st.sampled_from([b"acme", b"1.0", TOPIC.encode()]))
mode = st.sampled_from([[], [("content-type", b"application/cloudevents+json")]])


@settings(max_examples=400, deadline=None)
@given(
    st.none() | st.binary() | st.just(b"acme"),
    st.none() | fields | noise,
    st.lists(header, max_size=5),
    mode,
    st.sampled_from([*sorted(EVENTS), "x"]),
)
@example(b"acme", b'{"x":' * 700 + b"1" + b"}" * 700, [], [], TOPIC)
def test_any_bytes_give_an_event_or_a_refusal(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], mode: list[tuple[str, bytes]], topic: str
) -> None:
    outcome = read_or_refuse(value, key, headers + mode, topic)
    if isinstance(outcome, Refused):
        assert outcome.code.islower()
        assert outcome.sentence.isprintable()
        assert outcome.tenant_id is None or is_tenant_id(outcome.tenant_id)
    else:
        assert outcome.meta.time.tzinfo is not None
        storable = json.dumps(outcome.event.dump(), allow_nan=False, ensure_ascii=False)
        assert storable.encode()
        assert "\\u0000" not in storable.replace("\\\\", "")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(':"a', max_size=3), json_text, min_size=1, max_size=4))
def test_a_repeated_key_is_seen_wherever_colons_hide_it(data: dict[str, Any]) -> None:
    inner = json.dumps(data | {"twice": 1})[:-1] + ', "twice": 1}'
    assert refused(f'{{"x": [{inner}]}}'.encode()).code in {"duplicate_keys", "bad_number", "bad_text"}


SLOW = {
    "digits": b'{"x":0.' + b"1" * (MAX_BYTES - 20) + b"}",
    "integer": b'{"x":' + b"1" * (MAX_BYTES - 20) + b"}",
    "colons": b'{"x":"' + b":" * (MAX_BYTES - 20) + b'"}',
    "quotes": b'"' + b'\\"' * (MAX_BYTES // 2 - 20),
    "escapes": b'{"x":"' + b"\\u00e9" * (MAX_BYTES // 6 - 20) + b'"}',
    "open texts": b'["' * (MAX_BYTES // 2 - 20),
    "duplicates": b"{" + b'"a":1,' * (MAX_ITEMS - 10) + b'"a":1}',
    "zeros": b"[" + b"0," * (MAX_ITEMS - 10) + b"NaN]",
    "objects": b"[" + b"{}," * (MAX_ITEMS // 2 - 10) + b"NaN]",
    "stairs": b"[" + (b"[" * 30 + b"]" * 30 + b",") * (MAX_ITEMS // 31 - 10) + b"0]",
    "a million commas": b"," * MAX_BYTES,
    "long key": b'{"' + b"k" * (MAX_BYTES - 20) + b'":1}',
    "items": b'{"x":[' + b'"a:",' * (MAX_ITEMS - 10) + b"1]}",
}


@pytest.mark.parametrize("value", SLOW.values(), ids=list(SLOW))
def test_the_worst_megabyte_does_not_hold_up_the_event_loop(value: bytes) -> None:
    assert len(value) <= MAX_BYTES
    spent = []
    for _ in range(3):
        started = thread_time()
        with suppress(Refused):
            read(value)
        spent.append(thread_time() - started)
    assert min(spent) < 0.5, "milliseconds of this thread; one try may pay for the garbage of all tests before it"
