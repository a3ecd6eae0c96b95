"""The rebalance in which Faust skips events, forced on real Kafka: with our patch nothing is skipped, echoes neither; without it something is."""

import asyncio
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
TRIES = 4
"""The unpatched consumer lost events in 4 of 4 forced joins; one that shows it is enough."""


async def lost(platform: dict[str, Any], folder: Path, patch: str) -> int:
    """Records that no reader was handed, when a second worker joins under load before anything was committed."""
    topic, group = await a_topic(platform)
    files = [folder / f"{topic}-{slot}" for slot in (1, 2)]
    readers = [await reader(platform["kafka"], topic, group, 1, files[0], patch)]
    producer = AIOKafkaProducer(bootstrap_servers=platform["kafka"])
    await producer.start()
    sent: set[tuple[int, int]] = set()
    try:
        for number in range(1800):
            report = await producer.send_and_wait(topic, b"echo" if number % 3 else b"x", partition=number % 4)
            sent.add((report.partition, report.offset))
            if number == 500:
                readers.append(await reader(platform["kafka"], topic, group, 2, files[1], patch))
            await asyncio.sleep(0.003)
        for _ in range(100):
            if not (missing := sent - read(files)):
                return 0
            await asyncio.sleep(0.1)
        return len(missing)
    finally:
        await producer.stop()
        for process in readers:
            process.kill()
            await process.wait()


async def a_topic(platform: dict[str, Any]) -> tuple[str, str]:
    """Its name, and that of a group nobody has read it with."""
    name = f"seek-{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=platform["kafka"])
    await admin.start()
    await admin.create_topics([NewTopic(name, num_partitions=4, replication_factor=1)])
    await admin.close()
    return name, f"group-{name}"


async def reader(bootstrap: str, topic: str, group: str, slot: int, file: Path, patch: str) -> asyncio.subprocess.Process:
    arguments = [bootstrap, topic, group, str(slot), str(file), patch]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.reader", *arguments, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )


def read(files: list[Path]) -> set[tuple[int, int]]:
    lines = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()]
    return {(int(line[0]), int(line[1])) for line in lines if len(line) == 3}


async def test_a_join_under_load_skips_nothing(platform: dict[str, Any], tmp_path: Path) -> None:
    assert await lost(platform, tmp_path, "patch") == 0


async def test_the_mutant_without_the_seek_is_caught_by_a_forced_join(platform: dict[str, Any], tmp_path: Path) -> None:
    for _ in range(TRIES):
        if await lost(platform, tmp_path, "no-patch"):
            return
    pytest.fail("the mutant `no seek` was not caught: Faust may have been mended; then drop streams/seek_patch.py")


async def test_echoes_are_skimmed_and_committed_over_like_what_was_taken(platform: dict[str, Any], tmp_path: Path) -> None:
    topic, group = await a_topic(platform)
    file = tmp_path / "reader"
    process = await reader(platform["kafka"], topic, group, 1, file, "patch")
    producer = AIOKafkaProducer(bootstrap_servers=platform["kafka"])
    await producer.start()
    try:
        for number in range(400):
            await producer.send_and_wait(topic, b"x" if number % 40 == 0 else b"echo", partition=number % 4)
        async with asyncio.timeout(60):
            while len(read([file])) < 400:  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.1)
        process.terminate()
        await process.wait()
    finally:
        await producer.stop()
        if process.returncode is None:
            process.kill()
    hows = [line.split()[2] for line in file.read_text().splitlines()]
    assert hows.count("taken") < 20, "each partition's first records may be handed over before Faust knows where it stands, not more"
    admin = AIOKafkaAdminClient(bootstrap_servers=platform["kafka"])
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    assert {partition.partition: each.offset for partition, each in offsets.items() if partition.topic == topic} == dict.fromkeys(range(4), 100)
