"""Faults of Kafka, PostgreSQL and Redis, and of the ways of single workers to them."""

import asyncio
import signal
from typing import Any

import asyncpg
from redis.asyncio import Redis

from tests.chaos.faults_workers import LEASE
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene
from tests.chaos.town import Mortal


async def _down_and_up(scene: Scene, server: Mortal, how: signal.Signals, low: float, high: float) -> None:
    await server.take_down(how)
    await asyncio.sleep(scene.random.uniform(low, high))
    await server.bring_back()
    await asyncio.sleep(2)


async def broker_stop(scene: Scene) -> None:
    """The broker is stopped in an orderly way and comes back."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGTERM, 1, 9)


async def broker_kill(scene: Scene) -> None:
    """The broker crashes and comes back."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGKILL, 0, 8)


async def broker_restart(scene: Scene) -> None:
    """The broker is restarted at once."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGTERM, 0, 0.1)


async def broker_freeze(scene: Scene) -> None:
    """The broker answers nothing for a while: what a partition looks like from here."""
    broker = scene.town.kafka.process
    assert broker is not None
    broker.send_signal(signal.SIGSTOP)
    await asyncio.sleep(scene.random.uniform(5, 20))
    broker.send_signal(signal.SIGCONT)
    await asyncio.sleep(3)


async def postgres_restart(scene: Scene) -> None:
    """The database server is restarted: fast shutdown, or a crash with recovery."""
    how = scene.random.choice((signal.SIGINT, signal.SIGQUIT))
    await _down_and_up(scene, _mortal(scene.town.postgres), how, 0, 8)


async def postgres_kill_backends(scene: Scene) -> None:
    """Every connection of ours is terminated."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(scene.town.addresses.postgres)
    try:
        await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = current_user and pid <> pg_backend_pid()")
    finally:
        await connection.close()
    await asyncio.sleep(2)


def _mortal(server: object) -> Mortal:
    assert isinstance(server, Mortal)
    return server


async def postgres_cut(scene: Scene) -> None:
    """All of one worker's connections to PostgreSQL are reset."""
    scene.door("postgres").cut()
    await asyncio.sleep(2)


async def postgres_partition(scene: Scene) -> None:
    """One worker does not reach PostgreSQL for longer than its lease, and does not notice at first."""
    await _apart(scene, scene.door("postgres"), LEASE + scene.random.uniform(1, 8))


async def postgres_delay(scene: Scene) -> None:
    """PostgreSQL is far away for a while."""
    await _slow(scene, scene.door("postgres"), 4, 8)


async def kafka_cut(scene: Scene) -> None:
    """All of one worker's connections to Kafka are reset, some times."""
    door = scene.door("kafka")
    for _ in range(scene.random.randint(1, 5)):
        door.cut()
        await asyncio.sleep(0.4)


async def kafka_partition(scene: Scene) -> None:
    """One worker does not reach Kafka, while PostgreSQL and the others do: sometimes for longer than its session."""
    await _apart(scene, scene.door("kafka"), scene.random.uniform(4, 26))


async def kafka_delay(scene: Scene) -> None:
    """Kafka is far away from one worker for a while."""
    await _slow(scene, scene.door("kafka"), 4, 8)


async def _apart(scene: Scene, door: Proxy, seconds: float) -> None:
    """Nothing gets through, and nobody is told; half of the times the connections are lost then."""
    door.hold()
    await asyncio.sleep(seconds)
    if scene.random.random() < 0.5:
        door.cut()
    door.heal()
    await asyncio.sleep(3)


async def _slow(scene: Scene, door: Proxy, low: float, high: float) -> None:
    door.delay = scene.random.uniform(0.05, 0.4)
    await asyncio.sleep(scene.random.uniform(low, high))
    door.heal()


async def redis_flush(scene: Scene) -> None:
    """The cache forgets everything."""
    async with Redis.from_url(scene.town.addresses.redis) as redis:
        await redis.flushall()
    await asyncio.sleep(1)
