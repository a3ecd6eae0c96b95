"""Fewer workers than before: one that was started with `--leave` gives its partitions up when it is told to stop."""

import asyncio
import signal
import time

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streams.settings import KafkaSettings, from_stack
from streams.transport import SESSION
from tests.chaos.workers import Worker
from tests.e2e.house import House, until

pytestmark = pytest.mark.timeout(180)


async def test_a_worker_that_leaves_hands_its_partitions_over_without_waiting_for_its_session(house: House) -> None:
    stays, leaves = (Worker(f"worker-leave-{number}", house.home, house.environment) for number in (1, 2))
    admin = AIOKafkaAdminClient(bootstrap_servers=from_stack(house.at)["kafka"]["bootstrap"])
    await admin.start()
    try:
        await stays.start()
        await stays.ready()
        await leaves.start(flags=("--leave",))
        await leaves.ready()
        await until(lambda: members(admin, 2))
        leaves.send(signal.SIGTERM)
        assert await leaves.ended() == 0
        gone = time.monotonic()
        await until(lambda: members(admin, 1))
        assert time.monotonic() - gone < SESSION / 2
    finally:
        await asyncio.gather(stays.kill(), leaves.kill())
        await admin.close()


async def members(admin: AIOKafkaAdminClient, count: int) -> bool:
    """Whether the group is at rest with so many members, who share all partitions."""
    [answer] = await admin.describe_consumer_groups([KafkaSettings().app_id])
    [group] = answer.groups
    return bool(group[2] == "Stable" and len(group[5]) == count)
