"""The faults by name: each is injected once by `inject`, leaves everything running again, and says what it measured."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from redis.asyncio import Redis

from tests.chaos.town import Mortal, Town
from tests.chaos.watch import Watch
from tests.chaos.workers import Worker

LEASE = 12.0
POINTS = (
    "inbox.received", "inbox.recorded", "command.sending", "command.sent", "command.answered", "step.committed", "outbox.published",
    "deploy.accepted", "cache.warming",
)  # fmt: skip
"""Those that a pipeline with an index built by the engine passes."""
PATHS = (
    ("ml_engine", "/api/v1/train"), ("ml_engine", "/api/v1/index/build"), ("ml_engine", "/api/v1/jobs"),
    ("inference", "/api/v1/deploy"), ("inference", "/api/v1/health"), ("inference", "/api/v1/cache"),
)  # fmt: skip


@dataclass
class Scene:
    """What a fault may touch."""

    town: Town
    watch: Watch
    random: random.Random
    http: httpx.AsyncClient

    async def one(self) -> Worker:
        """A worker that is at work; waits while all of them are still starting."""
        async with asyncio.timeout(90):
            while not (ready := [worker for worker in self.town.workers if worker.is_ready]):  # noqa: ASYNC110  # processes set no event
                await asyncio.sleep(0.05)
        return self.random.choice(ready)

    async def again(self, worker: Worker) -> None:
        """Start it again, and go on when it is at work."""
        await worker.start()
        await worker.ready()


Fault = Callable[[Scene], Awaitable[None]]


async def kill9_worker(scene: Scene) -> None:
    """SIGKILL, and a supervisor that starts it again at once."""
    worker = await scene.one()
    since = await _kill(scene, worker, "kill -9, restarted: next step started")
    await worker.start()
    scene.watch.note("kill -9, restarted: worker ready", worker.ready(), since=since)


async def kill9_left_dead(scene: Scene) -> None:
    """SIGKILL, and nobody there to start it again before its lease has run out."""
    worker = await scene.one()
    await _kill(scene, worker, "kill -9, left dead: next step started")
    await asyncio.sleep(LEASE + 8)
    await scene.again(worker)


async def kill9_at_point(scene: Scene) -> None:
    """It dies at a fault point, after having passed it some times."""
    worker, point = await scene.one(), scene.random.choice(POINTS)
    await worker.kill()
    await worker.start(f"{point}:{scene.random.randrange(6)}")
    await worker.ready()
    deadline = time.monotonic() + 15
    while worker.running and time.monotonic() < deadline:  # noqa: ASYNC110  # a point that is passed rarely may not be reached
        await asyncio.sleep(0.05)
    await _kill(scene, worker, "kill -9 at a point: next step started")
    await scene.again(worker)


async def _kill(scene: Scene, worker: Worker, what: str) -> float:
    pid, since = worker.pid, time.monotonic()
    await worker.kill()
    scene.watch.time(what, await scene.watch.held_by(pid), since=since)
    return since


async def sigstop_worker(scene: Scene) -> None:
    """A pause longer than the lease: the others take its steps, and what it says afterwards is refused."""
    worker = await scene.one()
    worker.send(signal.SIGSTOP)
    since = time.monotonic()
    scene.watch.time("SIGSTOP: next step started", await scene.watch.held_by(worker.pid), since=since)
    await asyncio.sleep(LEASE + scene.random.uniform(1, 6))
    worker.send(signal.SIGCONT)
    await asyncio.sleep(3)
    if not worker.running:  # its slot was lost: it ends itself rather than speak with a lost voice
        await worker.ended()
        await scene.again(worker)


async def sigterm_worker(scene: Scene) -> None:
    """An orderly stop, as in a rolling deployment: what is in hand is finished or handed over."""
    worker = await scene.one()
    held, since = await scene.watch.held_by(worker.pid), time.monotonic()
    worker.send(signal.SIGTERM)
    scene.watch.time("SIGTERM: steps handed over", held, since=since)
    status = await worker.ended(40)
    scene.watch.recovery["SIGTERM: process ended"].append(time.monotonic() - since)
    if status != 0:
        raise FaultWrong(f"{worker.name} ended with {status} after SIGTERM; see {worker.log}")
    await scene.again(worker)


async def worker_join_leave(scene: Scene) -> None:
    """One more worker comes, works a while, and goes."""
    guest = await scene.town.house(len(scene.town.pg_proxies) + 1)
    await guest.start()
    await guest.ready()
    await asyncio.sleep(scene.random.uniform(1, 5))
    guest.send(signal.SIGTERM if scene.random.random() < 0.5 else signal.SIGKILL)
    await guest.ended(40)


async def _down_and_up(scene: Scene, server: Mortal, how: signal.Signals, low: float, high: float) -> None:
    await server.take_down(how)
    await asyncio.sleep(scene.random.uniform(low, high))
    await server.bring_back()
    await asyncio.sleep(2)


async def broker_stop(scene: Scene) -> None:
    """The broker is stopped in an orderly way and comes back."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGTERM, 2, 12)


async def broker_kill(scene: Scene) -> None:
    """The broker crashes and comes back."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGKILL, 1, 12)


async def broker_restart(scene: Scene) -> None:
    """The broker is restarted at once."""
    await _down_and_up(scene, _mortal(scene.town.kafka), signal.SIGTERM, 0, 0.1)


async def broker_freeze(scene: Scene) -> None:
    """The broker answers nothing for a while: what a partition looks like from here."""
    broker = scene.town.kafka.process
    assert broker is not None
    broker.send_signal(signal.SIGSTOP)
    await asyncio.sleep(scene.random.uniform(5, 25))
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


def neighbour(mode: str, **more: Any) -> Fault:
    """A neighbour misbehaves for some calls of one kind."""

    async def inject(scene: Scene) -> None:
        name, path = scene.random.choice(PATHS)
        fault = {"path": path, "mode": mode, "times": scene.random.randint(1, 8), **more}
        url = f"{getattr(scene.town.addresses, name)}/_faults"
        (await scene.http.post(url, json=fault)).raise_for_status()
        await asyncio.sleep(scene.random.uniform(3, 6))
        await scene.http.delete(url)

    inject.__doc__ = f"A neighbour answers some calls with: {mode} {more or ''}".strip()
    return inject


async def postgres_cut(scene: Scene) -> None:
    """All of one worker's connections to PostgreSQL are reset."""
    scene.random.choice(scene.town.pg_proxies[: scene.town.count]).cut()
    await asyncio.sleep(2)


async def postgres_partition(scene: Scene) -> None:
    """One worker does not reach PostgreSQL for longer than its lease, and does not notice at first."""
    proxy = scene.random.choice(scene.town.pg_proxies[: scene.town.count])
    proxy.hold()
    await asyncio.sleep(LEASE + scene.random.uniform(1, 8))
    if scene.random.random() < 0.5:
        proxy.cut()
    proxy.heal()
    await asyncio.sleep(3)


async def postgres_delay(scene: Scene) -> None:
    """PostgreSQL is far away for a while."""
    proxy = scene.random.choice(scene.town.pg_proxies[: scene.town.count])
    proxy.delay = scene.random.uniform(0.05, 0.4)
    await asyncio.sleep(scene.random.uniform(4, 8))
    proxy.heal()


async def neighbour_cut(scene: Scene) -> None:
    """Connections between a worker and a neighbour are reset, in the middle of whatever was said; new ones are refused for a while."""
    proxy = scene.random.choice(list(scene.random.choice(scene.town.neighbour_proxies[: scene.town.count]).values()))
    proxy.refusing = True
    for _ in range(scene.random.randint(1, 10)):
        proxy.cut()
        await asyncio.sleep(0.3)
    proxy.heal()
    await asyncio.sleep(2)


async def redis_flush(scene: Scene) -> None:
    """The cache forgets everything."""
    async with Redis.from_url(scene.town.addresses.redis) as redis:
        await redis.flushall()
    await asyncio.sleep(1)


class FaultWrong(Exception):
    """A process did not behave under a fault as it promised: counts as a violation."""


FAULTS: dict[str, Fault] = {
    "kill9_worker": kill9_worker,
    "kill9_at_point": kill9_at_point,
    "kill9_left_dead": kill9_left_dead,
    "sigstop_worker": sigstop_worker,
    "sigterm_worker": sigterm_worker,
    "worker_join_leave": worker_join_leave,
    "broker_stop": broker_stop,
    "broker_kill": broker_kill,
    "broker_restart": broker_restart,
    "broker_freeze": broker_freeze,
    "postgres_restart": postgres_restart,
    "postgres_kill_backends": postgres_kill_backends,
    "postgres_cut": postgres_cut,
    "postgres_partition": postgres_partition,
    "postgres_delay": postgres_delay,
    "neighbour_hang": neighbour("hang"),
    "neighbour_reset": neighbour("reset"),
    "neighbour_500": neighbour("status", status=500),
    "neighbour_429": neighbour("status", status=429, retry_after=1_000_000_000),
    "neighbour_html": neighbour("html"),
    "neighbour_drop_reply": neighbour("drop_reply"),
    "neighbour_cut": neighbour_cut,
    "redis_flush": redis_flush,
}
