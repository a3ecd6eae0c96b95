"""Echoes of what this worker published leave Faust here: they are most of what it reads, and in its streams each would cost four tasks and a queue.

A worker knows its own events by their ids, so there is nothing to decode, to record or to wait for. What Faust counts of a record that
went all the way (how far was read, what is acknowledged) it counts of these too, in the same order.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from faust.transport.drivers.aiokafka import Consumer, Transport

from streams.items import Arrived

Skim = Callable[[Arrived], bool]
"""Whether a record needs nothing more, known without waiting."""
IN_A_ROW = 50
"""Skimmed records after which others get their turn on the event loop: Faust itself waits for nobody until its buffers are full …"""
WEIGHT = 10
"""… and what goes through its streams costs so many times as much."""


class SkimmingConsumer(Consumer):
    """Faust's consumer, whose agents get what `skim` leaves."""

    transport: "SkimmingTransport"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given: dict[Any, Any] = {}
        """The last message of each partition that the agents got: they acknowledge in order, so it is the last one that may be open."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        """Partitions and messages for the agents; the skimmed ones are read and acknowledged on the way."""
        skim, done = self.transport.skim, 0
        async for partition, message in super().getmany(timeout):
            if self._follows(partition, message.offset) and self._all_recorded(partition) and skim(arrived(message)):
                self._read_offset[partition] = message.offset
                self.ack(message)
                done += 1
            else:
                self._given[partition] = message
                yield partition, message
                done += WEIGHT
            if done >= IN_A_ROW:
                done = 0
                await asyncio.sleep(0)

    def _follows(self, partition: Any, offset: int) -> bool:
        """Whether nothing is missing before it: Faust has its own way with holes and with what was read before."""
        read = self._read_offset[partition]
        return read is not None and 0 <= offset - read <= 1

    def _all_recorded(self, partition: Any) -> bool:
        """Whether no earlier record is still with the agents: Faust takes one that is acknowledged for proof that the one before it was."""
        given = self._given.get(partition)
        return given is None or given.acked

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Faust's look for streams that stand still reads a position that a rebalance may have taken away: no reason to end the worker."""
        with suppress(AssertionError):
            super().verify_event_path(now, tp)


class SkimmingTransport(Transport):
    """Faust's way to Kafka with that consumer."""

    Consumer = SkimmingConsumer

    def __init__(self, *args: Any, skim: Skim) -> None:
        super().__init__(*args)
        self.skim = skim


def arrived(message: Any) -> Arrived:
    """Faust's message as the inbox knows it."""
    headers = message.headers
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers or ())
    return Arrived(message.topic, message.partition, message.offset, round((message.timestamp or 0) * 1000), message.key, message.value, pairs)
