"""One life of a worker process: what it does to the outside passes a point where the scheduler may kill it, freeze it or cut its line."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from streams import faultpoints

if TYPE_CHECKING:
    from tests.simulation.links import Link
    from tests.simulation.world import World

T = TypeVar("T")
LIFE: ContextVar["Life | None"] = ContextVar("life", default=None)
"""Whose code runs: every task of a worker inherits it."""
_ROUNDS = 400


class Crash(BaseException):
    """This worker process is gone: no `except Exception` of its code sees it."""


class Life:
    """A worker process from its start to its death; the next one of the slot has another id."""

    def __init__(self, world: "World", slot: int, worker: UUID) -> None:
        self.world, self.slot, self.worker = world, slot, worker
        self.name = f"w{slot}.{str(worker)[:4]}"
        self.dead = False
        self.ending = False
        """It was asked to stop: its tasks end by themselves."""
        self.epoch = 0
        self.renewed = 0.0
        self.down_until = 0.0
        """Virtual time until which the database does not answer this worker."""
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their birth: a set's order is nobody's choice
        self.links: dict[Link, None] = {}
        self.gone = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()

    def held(self, epoch: int) -> bool:
        """As `Membership.held`: alive without a break since `epoch`."""
        return epoch == self.epoch and self.world.loop.time() < self.renewed + self.world.lease - 1.0

    def point(self, name: str) -> None:
        """Pass a named place: the process may end here."""
        if self.dead:
            raise Crash
        self.world.passed(name)
        if self.world.crashes_at(name):
            self.die(f"killed at {name}")
            raise Crash

    async def reach(self, name: str) -> None:
        """Pass a named place at which a frozen process stands still."""
        while not self._thawed.is_set() and not self.dead:
            await self._thawed.wait()
        self.point(name)

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def die(self, why: str) -> None:
        """kill -9: nothing of it runs any more, what it sent is on its way."""
        if self.dead:
            return
        self.dead = True
        self.world.say(f"{self.name} {why}")
        self._thawed.set()
        self.world.broker.leave(self)
        self.world.spawn(self._bury())

    async def _bury(self) -> None:
        for _ in range(_ROUNDS):
            if not self.tasks:
                break
            for task in list(self.tasks):
                task.cancel()
            await asyncio.sleep(0 if _ % 20 else 0.01)
        else:
            self.world.violate("simulation", f"tasks of {self.name} would not end: {self.tasks}")
        for link in list(self.links):
            link.terminate()
        self.gone.set()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of this process."""
        context = Context()
        context.run(LIFE.set, self)
        return self.world.loop.create_task(coroutine, context=context)


def install_points() -> None:
    """Let every fault point of the runtime ask the worker that passes it."""

    def action(name: str) -> Callable[[], None]:
        def hit() -> None:
            if life := LIFE.get():
                life.point(name)

        return hit

    for name in faultpoints.POINTS:
        faultpoints.arm(name, action(name))


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None) -> "asyncio.Task[Any]":
    """Tasks are known to the process that they belong to."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
    life = context.get(LIFE) if context is not None else LIFE.get()
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(lambda _: life.tasks.pop(task, None))
    return task


async def detached(work: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    """Await what happens elsewhere: it goes on when this process dies."""

    async def carry() -> T:
        return await work

    return await asyncio.shield(loop.create_task(carry(), context=Context()))
