"""Kafka in memory, at its worst: it redelivers, reorders between partitions, rebalances, skips, loses acknowledgements and doubles sends."""

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, RequestTimedOutError

from streams.items import Arrived
from streams.ledger.groupcommit import Stopped
from tests.simulation.life import LIFE, Life

if TYPE_CHECKING:
    from tests.simulation.world import World

Take = Callable[[Arrived], Awaitable[None]]
Place = tuple[str, int]
COMMIT_EVERY = 1.0
ACKNOWLEDGE_FIRST = False
"""A mutant: offsets are acknowledged before the ledger has the record."""


class Member:
    """A consumer of the group."""

    def __init__(self, life: Life, take: Take) -> None:
        self.life, self.take = life, take
        self.generation = -1
        self.acked: dict[Place, int] = {}


class Broker:
    """Partitions, offsets and one consumer group."""

    def __init__(self, world: "World", topics: Sequence[str], partitions: int) -> None:
        self.world, self.partitions = world, partitions
        self.consumed = [(topic, number) for topic in topics for number in range(partitions)]
        self.log: dict[Place, list[Arrived]] = {}
        self.committed: dict[Place, int] = {}
        self.generation = 0
        self.down_until = 0.0
        self._members: dict[Life, Member] = {}
        self._news: dict[Place, asyncio.Event] = {place: asyncio.Event() for place in self.consumed}

    @property
    def down(self) -> bool:
        return self.world.loop.time() < self.down_until and not self.world.choices.calm

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> Arrived:
        """A record on the partition of its key."""
        place = (topic, zlib.crc32(key or value or b"") % self.partitions)
        log = self.log.setdefault(place, [])
        record = Arrived(*place, len(log), self.world.milliseconds(), key, value, list(headers))
        log.append(record)
        if place in self._news:
            self._news[place].set()
        return record

    def records(self, topic: str | None = None) -> list[Arrived]:
        return [record for (name, _), log in sorted(self.log.items()) for record in log if topic in (None, name)]

    def behind(self) -> dict[Place, tuple[int, int]]:
        """Partitions of which the group has not committed all there is: committed, and end."""
        marks = {place: (self.committed.get(place, 0), len(self.log.get(place, ()))) for place in self.consumed}
        return {place: (committed, end) for place, (committed, end) in marks.items() if committed < end}

    # the group

    def join(self, life: Life, take: Take) -> None:
        self._members[life] = Member(life, take)
        life.run(self._commit(self._members[life]))
        self.rebalance()

    def leave(self, life: Life) -> None:
        if self._members.pop(life, None):
            self.rebalance()

    def rebalance(self) -> None:
        """Partitions go to other members; what was read and not committed is read again, by somebody else."""
        self.generation += 1
        members = list(self._members.values())
        if not members:
            return
        places = list(self.consumed)
        self.world.choices.shuffle(places)
        for member in members:
            member.generation, member.acked = self.generation, {}
        for news in self._news.values():
            news.set()  # whoever reads it sees that it may be somebody else's
        for number, place in enumerate(places):
            member = members[number % len(members)]
            member.life.run(self._read(member, place, self.generation))

    async def _read(self, member: Member, place: Place, generation: int) -> None:
        choices, weather = self.world.choices, self.world.weather
        position = self.committed.get(place, 0)
        if self.log.get(place, [])[position:] and choices.chance(weather.skip):
            position = min(position + choices.number(1, 3), len(self.log[place]))  # Faust in a rebalance that meets a partition without a commit
            member.acked[place] = position
            self.world.say(f"{member.life.name} skips to {place} {position}")
        while member.generation == generation == self.generation and not member.life.ending:
            log = self.log.get(place, [])
            if position >= len(log) or self.down:
                self._news[place].clear()
                await self._wait(place)
                continue
            if choices.chance(0.5):
                await asyncio.sleep(choices.between(0, weather.lag))
            batch = log[position : position + choices.number(1, 8)]
            taken = deque((record, asyncio.create_task(self._take(member, record))) for record in batch)
            position += len(batch)
            while taken:
                record, task = taken.popleft()
                if ACKNOWLEDGE_FIRST:
                    self.committed[place] = max(self.committed.get(place, 0), record.offset + 1)
                else:
                    await asyncio.wait({task})
                if member.generation == generation:
                    member.acked[place] = max(member.acked.get(place, 0), record.offset + 1)
            if choices.chance(weather.redeliver):
                position = max(0, position - choices.number(1, 5))

    async def _wait(self, place: Place) -> None:
        """Until there is news, or the partition may be somebody else's."""
        if self.down:
            await asyncio.sleep(0.5)
        else:
            await self._news[place].wait()

    async def _take(self, member: Member, record: Arrived) -> None:
        """As the transport does: a record that cannot be recorded ends the process."""
        try:
            await member.life.reach("deliver")
            await member.take(record)
            self.world.read.add((record.topic, record.partition, record.offset))
        except Stopped:
            member.life.die("exits: it stops while the ledger is away")
        except Exception as error:
            self.world.violate("worker", f"{member.life.name} ended itself over {record.topic}/{record.partition}@{record.offset}: {error!r}")
            member.life.die(f"exits: {error!r}")

    async def _commit(self, member: Member) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY)
            await member.life.reach("commit offsets")
            if member.generation == self.generation and not self.down:
                for place, past in member.acked.items():
                    self.committed[place] = max(self.committed.get(place, 0), past)


class SimProducer:
    """The producer of one worker."""

    def __init__(self, life: Life) -> None:
        self._life, self._world, self._broker = life, life.world, life.world.broker

    async def send(self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None) -> "asyncio.Future[Any]":
        await self._life.reach("produce")
        choices, weather = self._world.choices, self._world.weather
        if self._broker.down and choices.chance(0.5):
            raise KafkaTimeoutError("no metadata")
        future: asyncio.Future[Any] = self._world.loop.create_future()
        lost = self._broker.down or choices.chance(weather.send_fails)
        unsure = not lost and choices.chance(weather.ack_lost)
        times = 0 if lost else 2 if choices.chance(weather.send_twice) else 1
        self._world.later(choices.between(0, 0.01), lambda: [self._broker.append(topic, key, value, headers or ()) for _ in range(times)])
        error = KafkaConnectionError("not sent") if lost else RequestTimedOutError("sent, but nobody said so") if unsure else None
        self._world.later(choices.between(0.01, 0.05), lambda: _settle(future, error))
        return future


def _settle(future: "asyncio.Future[Any]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class GapReader:
    """The side consumer that the gap sweep opens."""

    def __init__(self, **_: Any) -> None:
        life = LIFE.get()
        assert life is not None
        self._life, self._broker, self._position = life, life.world.broker, dict[TopicPartition, int]()

    async def start(self) -> None:
        await self._life.reach("gap reader")
        if self._broker.down:
            raise KafkaConnectionError("the broker is down")

    async def stop(self) -> None: ...

    def assign(self, partitions: Sequence[TopicPartition]) -> None: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def resume(self, *partitions: TopicPartition) -> None: ...

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self.start()
        return {p: len(self._broker.log.get((p.topic, p.partition), ())) for p in partitions}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self.start()
        return dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._position[partition] = offset

    async def getmany(self, partition: TopicPartition, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        await self.start()
        at = self._position[partition]
        found = self._broker.log.get((partition.topic, partition.partition), [])[at : at + 10]
        self._position[partition] = at + len(found)
        if not found:
            await asyncio.sleep(timeout_ms / 1000)
        return {partition: [_kafka_record(record) for record in found]} if found else {}


def _kafka_record(record: Arrived) -> Any:
    return SimpleNamespace(**{**record._asdict(), "timestamp": record.timestamp_ms})
