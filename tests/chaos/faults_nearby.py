"""Faults of the neighbours and of the object store."""

import asyncio
from typing import Any

from tests.chaos.scene import Fault, Scene
from tests.chaos.store import Store

PATHS = (
    ("ml_engine", "/api/v1/train"), ("ml_engine", "/api/v1/index/build"), ("ml_engine", "/api/v1/jobs"),
    ("inference", "/api/v1/deploy"), ("inference", "/api/v1/health"), ("inference", "/api/v1/cache"),
)  # fmt: skip


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


async def neighbour_cut(scene: Scene) -> None:
    """Connections between a worker and a neighbour are reset, in the middle of whatever was said; new ones are refused for a while."""
    proxy = scene.door(scene.random.choice(("ml_engine", "inference")))
    proxy.refusing = True
    for _ in range(scene.random.randint(1, 10)):
        proxy.cut()
        await asyncio.sleep(0.3)
    proxy.heal()
    await asyncio.sleep(2)


def store(what: str) -> Fault:
    """The object store answers one worker's requests with 503 SlowDown, or with half of the body, for a while."""

    async def inject(scene: Scene) -> None:
        door = _store(scene)
        setattr(door, what, scene.random.randint(1, 12))
        await asyncio.sleep(scene.random.uniform(3, 6))
        door.heal()

    inject.__doc__ = f"The object store's answers to one worker are: {what}"
    return inject


async def s3_slow(scene: Scene) -> None:
    """The object store takes its time with every piece, for one worker."""
    door = _store(scene)
    door.delay = scene.random.uniform(0.1, 1.5)
    await asyncio.sleep(scene.random.uniform(3, 6))
    door.heal()


async def s3_cut(scene: Scene) -> None:
    """Connections of one worker to the object store are reset, in the middle of whatever was said; new ones are refused for a while."""
    door = _store(scene)
    door.refusing = True
    for _ in range(scene.random.randint(1, 8)):
        door.cut()
        await asyncio.sleep(0.3)
    door.heal()
    await asyncio.sleep(1)


def _store(scene: Scene) -> Store:
    door = scene.door("s3")
    assert isinstance(door, Store)
    return door
