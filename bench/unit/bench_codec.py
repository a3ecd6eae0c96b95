"""The first and the last step of every event's way: bytes to a checked event, and a row of the outbox to bytes."""

import json
from typing import Any
from uuid import UUID

from schemas.cloudevents import decode
from schemas.context import Origin
from streams.records import event_record

RUN = str(UUID(int=7))
DATA = {
    "tenant_id": "acme", "run_id": RUN, "bucket": "embeddings-training-data", "prefix": "training-data/acme/latest/", "files": 3, "bytes": 4096,
    "fingerprint": "0" * 64,
}  # fmt: skip
ROW = {
    "event_id": str(UUID(int=9)), "topic": "training.validated", "tenant_id": "acme", "run_id": RUN, "causation": str(UUID(int=8)), "seq": 7,
    "traceparent": None, "at": "2026-11-27T04:00:00.000001+00:00", "value": json.dumps(DATA),
}  # fmt: skip


def bench_decode_a_bare_request(benchmark: Any) -> None:
    benchmark.extra_info |= {"what": "decode a bare request", "items": 1}
    origin = Origin("cluster", "training.requested", 0, 7, 1_795_000_000_000)
    assert benchmark(decode, None, b'{"tenant_id": "acme"}', [], origin).event.tenant_id == "acme"


def bench_decode_an_event_of_ours(benchmark: Any) -> None:
    benchmark.extra_info |= {"what": "decode an event with all its headers", "items": 1}
    key, value, headers = event_record(ROW)
    origin = Origin("cluster", "training.validated", 0, 7, 1_795_000_000_000)
    assert benchmark(decode, key, value, headers, origin).meta.sequence == 7


def bench_encode_an_event(benchmark: Any) -> None:
    benchmark.extra_info |= {"what": "a row of the outbox as a record", "items": 1}
    assert benchmark(event_record, ROW).key == b"acme"
