"""What a worker skims off before Faust's agents get it: never past a record that they have not recorded yet."""

from collections import defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import Consumer

from streams.skim import SkimmingConsumer

PLACE = "training.requested-0"


class Fetched:
    """A consumer that has fetched some messages; `acked` are the offsets that were acknowledged, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[Any] = []
        self.acked: list[int] = []

        async def getmany(_: Any, timeout: float) -> AsyncIterator[tuple[str, Any]]:
            waiting, self.waiting = self.waiting, []
            for message in waiting:
                yield PLACE, message

        monkeypatch.setattr(Consumer, "getmany", getmany)
        monkeypatch.setattr(SkimmingConsumer, "ack", lambda _, message: self.ack(message))
        self.consumer = object.__new__(SkimmingConsumer)
        transport = SimpleNamespace(skim=lambda record: record.value == b"echo")
        vars(self.consumer).update(transport=transport, _given={}, _read_offset=defaultdict(lambda: -1))

    def ack(self, message: Any) -> None:
        message.acked = True
        self.acked.append(message.offset)

    def message(self, offset: int, value: bytes) -> Any:
        found = SimpleNamespace(topic="t", partition=0, offset=offset, timestamp=0, key=None, value=value, headers=None, acked=False)
        self.waiting.append(found)
        return found

    async def given(self) -> list[Any]:
        """What the agents get, as Faust reads it."""
        found = []
        async for partition, message in self.consumer.getmany(0):
            self.consumer._read_offset[partition] = message.offset
            found.append(message)
        return found


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    return Fetched(monkeypatch)


async def test_echoes_go_no_further(fetched: Fetched) -> None:
    for offset in range(3):
        fetched.message(offset, b"echo")
    assert await fetched.given() == []
    assert fetched.acked == [0, 1, 2]


async def test_an_echo_behind_a_record_that_is_not_recorded_yet_goes_the_same_way(fetched: Fetched) -> None:
    """Faust commits past the last acknowledged one, though the one before it is open."""
    first, echo = fetched.message(0, b"{}"), fetched.message(1, b"echo")
    assert await fetched.given() == [first, echo]
    assert fetched.acked == []


async def test_when_the_agents_are_through_echoes_are_skimmed_again(fetched: Fetched) -> None:
    first, second = fetched.message(0, b"{}"), fetched.message(1, b"echo")
    await fetched.given()
    fetched.ack(first)
    fetched.ack(second)
    fetched.message(2, b"echo")
    assert await fetched.given() == []
    assert fetched.acked == [0, 1, 2]


def test_a_partition_without_a_position_is_no_reason_to_end_the_worker(fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Consumer, "verify_event_path", looks)
    fetched.consumer.verify_event_path(0.0, PLACE)
