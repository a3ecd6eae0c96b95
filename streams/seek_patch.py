"""Faust skips events when a rebalance meets a partition without a committed offset (docs/decisions/0003): this makes it seek.

aiokafka seeks to the committed offset only if there is one above 0; Faust drops records that were fetched while its flow was
off and relies on that seek. Without a commit the position stays behind the dropped records and the next commit covers them.
"""

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread


async def _seek_all(consumer: Any) -> dict[Any, int | None]:
    positions: dict[Any, int | None] = {}
    for partition in consumer.assignment():
        offset = await consumer.committed(partition)
        if offset is not None and offset > 0:
            consumer.seek(partition, offset)
        else:
            await consumer.seek_to_beginning(partition)
        positions[partition] = offset
    return positions


async def _seek_to_committed(self: Any) -> Any:
    return await self.call_thread(_seek_all, self._ensure_consumer())


def apply() -> None:
    """Patch Faust's consumer; before the app starts."""
    AIOKafkaConsumerThread.seek_to_committed = _seek_to_committed  # type: ignore[method-assign]  # the patch
