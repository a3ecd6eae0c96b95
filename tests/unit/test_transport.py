"""What an agent does with the records of its topic: how many it reads, how many it hands on at a time, and in which order it acknowledges."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from streams.items import Arrived
from streams.transport import READ_AHEAD, READ_AHEAD_BYTES, WINDOW, add_agents


class App:
    """Takes agents as Faust's app does, and hands them a stream."""

    def __init__(self) -> None:
        self.read: Callable[[Any], Any] | None = None

    def topic(self, name: str, **_: Any) -> str:
        return name

    def agent(self, topic: str, **_: Any) -> Callable[[Any], None]:
        def keep(read: Any) -> None:
            self.read = read

        return keep


class Topic:
    """A stream of records, which stays open at its end; how many were read, which are acknowledged."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._values, self.read, self.acknowledged = list(values), 0, list[int]()

    def noack(self) -> "Topic":
        return self

    async def events(self) -> AsyncIterator[Any]:
        for offset, value in enumerate(self._values):
            self.read += 1
            message = SimpleNamespace(topic="dq.tick", partition=0, offset=offset, timestamp=0.0, key=None, value=value, headers=())
            yield SimpleNamespace(message=message, ack=lambda offset=offset: self.acknowledged.append(offset))
        await asyncio.Event().wait()


class Reading:
    """An agent at work on a topic; records end when they are let go."""

    def __init__(self, topic: Topic) -> None:
        self.topic, self.taken, self.may_end = topic, list[int](), dict[int, asyncio.Event]()
        app: Any = App()
        add_agents(app, ["dq.tick"], self._take)
        self._task = asyncio.ensure_future(app.read(topic))

    async def _take(self, record: Arrived) -> None:
        self.taken.append(record.offset)
        await self.may_end.setdefault(record.offset, asyncio.Event()).wait()

    async def let_go(self, offset: int) -> None:
        self.may_end.setdefault(offset, asyncio.Event()).set()
        await quiet()

    async def stop(self) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def quiet() -> None:
    """Until nothing moves any more."""
    for _ in range(20):
        await asyncio.sleep(0)


async def reading(values: Iterable[bytes]) -> Reading:
    found = Reading(Topic(values))
    for _ in range(READ_AHEAD):
        await asyncio.sleep(0)
    return found


async def test_a_record_is_acknowledged_when_all_before_it_are_recorded() -> None:
    agent = await reading([b"{}"] * 3)
    await agent.let_go(2)
    await agent.let_go(1)
    assert agent.topic.acknowledged == []
    await agent.let_go(0)
    assert agent.topic.acknowledged == [0, 1, 2]
    await agent.stop()


async def test_a_few_are_on_their_way_into_the_ledger_at_a_time_and_the_others_follow() -> None:
    agent = await reading([b"{}"] * (WINDOW + 1))
    assert agent.taken == [*range(WINDOW)]
    await agent.let_go(5)
    assert agent.taken == [*range(WINDOW + 1)]
    await agent.stop()


@pytest.mark.parametrize(
    ("values", "read"),
    [
        pytest.param([b"{}"] * (READ_AHEAD + 10), READ_AHEAD + 1, id="many"),
        pytest.param([b"x" * (READ_AHEAD_BYTES // 2)] * 10, 3, id="large"),
        pytest.param([b"x" * (READ_AHEAD_BYTES + 1)] * 10, 2, id="too large for any room, so one by one"),
    ],
)
async def test_a_crowd_is_read_off_fausts_buffer_up_to_a_bound(values: list[bytes], read: int) -> None:
    """The last one that was read waits for room, in the agent's hands."""
    agent = await reading(values)
    assert agent.topic.read == read
    await agent.let_go(0)
    assert agent.topic.read == read + 1
    await agent.stop()
