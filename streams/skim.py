"""Echoes of what this worker published leave Faust here: they are most of what it reads, and in its streams each would cost four tasks and a queue.

A worker knows its own events by their ids, so there is nothing to decode, to record or to wait for. What Faust counts of a record that
went all the way (how far was read, what is acknowledged) it counts of these too, in the same order.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
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

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        """Partitions and messages for the agents; the skimmed ones are read and acknowledged on the way."""
        skim, done = self.transport.skim, 0
        async for partition, message in super().getmany(timeout):
            if self._follows(partition, message.offset) and skim(arrived(message)):
                self._read_offset[partition] = message.offset
                self.ack(message)
                done += 1
            else:
                yield partition, message
                done += WEIGHT
            if done >= IN_A_ROW:
                done = 0
                await asyncio.sleep(0)

    def _follows(self, partition: Any, offset: int) -> bool:
        """Whether nothing is missing before it: Faust has its own way with holes and with what was read before."""
        read = self._read_offset[partition]
        return read is not None and 0 <= offset - read <= 1


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
