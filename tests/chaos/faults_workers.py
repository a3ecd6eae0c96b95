"""Faults of workers: killed, stopped and continued, told to end, come and gone."""

import asyncio
import signal
import time

from tests.chaos.scene import PATIENCE, FaultWrong, Scene

LEASE = 12.0
ENDS_WITHIN = 60.0
"""Seconds from SIGTERM to the end of the process, servers being away or not."""
POINTS = (
    "inbox.received", "inbox.recorded", "command.sending", "command.sent", "command.answered", "step.committed", "outbox.published",
    "deploy.accepted", "cache.warming",
)  # fmt: skip
"""Those that a pipeline with an index built by the engine passes."""


async def kill9_worker(scene: Scene) -> None:
    """SIGKILL, and a supervisor that starts it again at once."""
    worker = await scene.one()
    since = await scene.kill(worker, "kill -9, restarted: next step started")
    await worker.start()
    scene.watch.note(scene.named("kill -9, restarted: worker ready"), worker.ready(PATIENCE), since=since)


async def kill9_left_dead(scene: Scene) -> None:
    """SIGKILL, and nobody there to start it again before its lease has run out."""
    worker = await scene.one()
    await scene.kill(worker, "kill -9, left dead: next step started")
    await asyncio.sleep(LEASE + 1)
    await scene.watch.settle(7)
    await scene.again(worker)


async def kill9_at_point(scene: Scene) -> None:
    """It dies at a fault point, after having passed it some times."""
    worker, point = await scene.one(), scene.random.choice(POINTS)
    await scene.kill(worker, "kill -9 twice: next step started")
    await worker.start(f"{point}:{scene.random.randrange(6)}")
    await worker.ready(PATIENCE)
    deadline = time.monotonic() + 15
    while worker.running and time.monotonic() < deadline:  # noqa: ASYNC110  # a point that is passed rarely may not be reached
        await asyncio.sleep(0.05)
    await scene.kill(worker, "kill -9 at a point: next step started")
    await scene.again(worker)


async def sigstop_worker(scene: Scene) -> None:
    """A pause longer than the lease: the others take its steps, and what it says afterwards is refused."""
    worker = await scene.one()
    worker.send(signal.SIGSTOP)
    since = time.monotonic()
    scene.time("SIGSTOP: next step started", await scene.watch.held_by(worker.pid), since=since)
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
    scene.time("SIGTERM: steps handed over", held, since=since)
    status = await worker.ended(ENDS_WITHIN)
    scene.watch.recovery[scene.named("SIGTERM: process ended")].append(time.monotonic() - since)
    if status != 0:
        raise FaultWrong(f"{worker.name} ended with {status} after SIGTERM; see {worker.log}")
    await scene.again(worker)


async def worker_join_leave(scene: Scene) -> None:
    """One more worker comes, works a while, and goes."""
    guest = scene.town.guest()
    await guest.start(flags=("--leave",))
    await guest.ready(PATIENCE)
    await asyncio.sleep(scene.random.uniform(1, 5))
    if scene.random.random() < 0.5:
        await scene.kill(guest, "kill -9, left dead: next step started")
    else:
        guest.send(signal.SIGTERM)
        await guest.ended(ENDS_WITHIN)
