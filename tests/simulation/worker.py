"""What a worker process consists of here: the real runtime, the real gap sweep, a heartbeat, and the group's consumer in place of Faust."""

import asyncio
from typing import TYPE_CHECKING, Any

from streams import gaps
from streams.gaps import Gaps
from streams.ledger.connection import Connection, is_outage
from streams.ledger.ledger import Ledger
from streams.runtime import Runtime
from tests.simulation.broker import GapReader, SimProducer
from tests.simulation.life import Life

if TYPE_CHECKING:
    from tests.simulation.world import World

_RENEW = (
    "update workers set lease_until = clock_timestamp() + make_interval(secs => $2) where worker_id = $1 and lease_until > '-infinity' returning 1"
)
_LEAVE = "update workers set lease_until = '-infinity', stopped_at = clock_timestamp() where worker_id = $1"
BEAT = 3.0
GRACE = 10.0


class Room:
    """Child processes are always free."""

    free = 2


class Worker:
    """One started worker; `life` says whether it still lives."""

    def __init__(self, world: "World", life: Life) -> None:
        self.world, self.life = world, life
        self.ledger = Ledger(world.settings.ledger, world.clock, worker=life.worker)
        services = world.services(life)
        self.runtime = Runtime(
            world.pipelines,
            services,
            self.ledger,
            SimProducer(life),
            lease=life,
            cpu=Room(),
            cluster="simulation",
            caught_up=lambda topic, since: self.gaps.caught_up(topic, since),
        )
        self.gaps: Gaps = Gaps(world.settings, world.pipelines.topics, self.runtime.inbox.take, self.runtime.inbox.settle_strangers, world.clock)
        self.heart = Connection(world.dsn, name="heart")
        self._side: list[asyncio.Task[Any]] = []
        self.ready = False

    async def start(self) -> None:
        """Take the slot over, then work."""
        join = "select join_slot($1, $2, 'simulation', 1, $3)"
        while not await self._beat(join, self.life.worker, self.life.slot, self.world.lease):  # noqa: ASYNC110  # as a worker waits for its ledger
            await asyncio.sleep(0.5)
        self.ledger.start()
        self.runtime.start()
        self._side = [asyncio.create_task(self.gaps.run()), asyncio.create_task(self._heartbeat())]
        self.world.broker.join(self.life, self.runtime.inbox.take)
        self.ready = True

    async def stop(self) -> None:
        """SIGTERM: drain, publish, leave."""
        self.life.ending = True
        self.ready = False
        await self.runtime.drain(GRACE)
        for task in self._side:
            task.cancel()
        self.world.broker.leave(self.life)
        await self.runtime.stop()
        await self.ledger.stop()
        await self.gaps.close()
        await self._beat(_LEAVE, self.life.worker)
        await self.heart.close()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            began = self.world.loop.time()
            rows = await self._beat(_RENEW, self.life.worker, self.world.lease)
            if rows == []:
                self.life.die("exits: its lease was taken over")
                return
            if rows:
                if began > self.life.renewed + self.world.lease - 1.0:
                    self.life.epoch += 1
                self.life.renewed = began

    async def _beat(self, sql: str, *args: Any) -> Any:
        """The rows of a statement about the lease; None when the database is away."""
        began = self.world.loop.time()
        try:
            rows = await self.heart.fetch(sql, *args)
        except Exception as error:
            if not is_outage(error):
                raise
            await self.heart.drop()
            return None
        if not self.ready:
            self.life.renewed = began
        return rows

    @property
    def moving(self) -> str:
        """What it has in hand; nothing when it is quiet."""
        executor, inbox, outbox = self.runtime.executor, self.runtime.inbox, self.runtime.outbox
        parts = {"steps": executor._running, "strangers": inbox._strangers, "echoes": inbox._echoes, "rows": outbox._rows, "sending": outbox._in_hand}
        return ", ".join(f"{len(part)} {name}" for name, part in parts.items() if part)

    def silent_deaths(self) -> list[str]:
        """Background tasks of the runtime that ended though nobody stopped it."""
        if self.life.dead or self.life.ending:
            return []
        parts = [*self.runtime._tasks, *self.runtime._publishing, *self.ledger._receiving._lanes, *self.ledger._committing._lanes]
        return [f"{task.get_coro().__qualname__}: {task.exception()!r}" for task in parts if task.done() and not task.cancelled()]


gaps.AIOKafkaConsumer = GapReader
