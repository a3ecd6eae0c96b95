"""What a worker says of its own readiness."""

from types import SimpleNamespace
from typing import Any

from streams.probes import trouble


def a_membership(**changes: Any) -> Any:
    return SimpleNamespace(**{"outage": None, "epoch": 0, "held": lambda _: True} | changes)


def a_runtime(**changes: Any) -> Any:
    known = {"ledger": SimpleNamespace(outage=None), "outbox": SimpleNamespace(outage=None), "executor": SimpleNamespace(draining=False)}
    return SimpleNamespace(**known | changes)


def test_a_worker_that_lacks_nothing_is_ready() -> None:
    assert trouble(a_membership(), a_runtime()) == {}


def test_a_worker_that_waits_for_kafka_is_not_ready() -> None:
    assert trouble(a_membership(), None) == {"starting": "waits for Kafka and its topics"}


def test_who_is_missing_is_named() -> None:
    found = trouble(a_membership(held=lambda _: False), a_runtime(ledger=SimpleNamespace(outage="gone"), outbox=SimpleNamespace(outage="no broker")))
    assert found == {"ledger": "gone", "kafka": "no broker", "lease": "the lease ran out and was not renewed yet"}


def test_a_worker_that_has_nothing_to_publish_notices_too_that_kafka_is_away() -> None:
    assert trouble(a_membership(), a_runtime(), "no ends of the logs") == {"kafka": "no ends of the logs"}


def test_a_worker_that_was_told_to_stop_takes_no_more() -> None:
    assert "draining" in trouble(a_membership(), a_runtime(executor=SimpleNamespace(draining=True)))
