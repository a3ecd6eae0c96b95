"""One worker's machinery put together: ledger, executor, outbox, inbox and dispatcher, without Kafka's consumer and without Faust.

The transport feeds `inbox`; tests and the simulation feed it too, with an in-memory broker in place of the producer.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from streams.attempt import CaughtUp
from streams.dispatch import Dispatcher
from streams.executor import Executor, Lease, Room
from streams.expand import Expander
from streams.inbox import Inbox
from streams.ledger.connection import Connection, is_outage
from streams.ledger.ledger import Ledger
from streams.outbox import GATHERED, Outbox, Producer
from streams.pipelines import Pipelines
from streams.timers import Timers

log = structlog.get_logger(__name__)

SWEEP_OUTBOX = 1.0
SILENT_BEATS = 1.5
"""Heartbeats that a worker may miss before others publish what it had in hand: a crash makes events late by no more."""
LAST_FLUSH = 3.0
"""Seconds that the ledger has to take the last watermarks when a worker stops."""


class Runtime:
    """Everything between a record and the events that follow from it."""

    def __init__(
        self,
        pipelines: Pipelines,
        services: Any,
        ledger: Ledger,
        producer: Producer,
        *,
        lease: Lease,
        cpu: Room,
        cluster: str,
        caught_up: CaughtUp,
    ) -> None:
        """`caught_up`: whether what lay on a topic is recorded, as the gap sweep sees it."""
        settings = pipelines.settings
        self.pipelines, self.ledger, self.lease = pipelines, ledger, lease
        dsn = settings.ledger.dsn.get_secret_value()
        outbox, sweep, timers = (Connection(dsn, name=f"tidemill-{name}", worker=lease.worker) for name in ("outbox", "sweep", "timers"))
        self._connections = [outbox, sweep, timers]
        unheard = settings.runtime.lease - SILENT_BEATS * settings.runtime.heartbeat
        gather = GATHERED if settings.runtime.eager else 0
        self.outbox = Outbox(producer, outbox, sweep, worker=lease.worker, unheard=unheard, gather=gather, held=lambda: self.timers.behind)
        self.executor = Executor(pipelines, services, ledger, self.outbox, lease=lease, cpu=cpu, caught_up=caught_up)
        self.inbox = Inbox(pipelines, ledger, self.outbox, self.executor, cluster=cluster, worker=lease.worker, held=lambda: self.timers.behind)
        self.expander = Expander(pipelines, ledger, self.inbox)
        self.timers = Timers(pipelines, timers, ledger.clock, publish=self.outbox.publish, begin=self.executor.room_made.set)
        self.dispatcher = Dispatcher(pipelines, ledger, self.executor, lease.worker, held=lambda: self.timers.behind)
        self._sweep_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._publishing = [asyncio.create_task(part) for part in (self.outbox.run(), self.outbox.run_states(), self.outbox.run_removal())]
        parts: list[Coroutine[Any, Any, None]] = [
            self.dispatcher.run(),
            self.dispatcher.run_reaper(),
            self.inbox.run_flush(),
            self.expander.run(),
            self.timers.run(),
            self._sweep(),
        ]
        self._tasks = [asyncio.create_task(part) for part in parts]

    async def drain(self, grace: float) -> None:
        """Give back what is in hand; afterwards nothing new begins."""
        await self.executor.drain(grace)

    async def stop(self) -> None:
        """Publish what is left and stop; rows that Kafka does not take now stay in the outbox."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._last_flush()
        await self.outbox.stop()
        await asyncio.wait(self._publishing, timeout=5)
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        for connection in self._connections:
            await connection.close()

    async def _last_flush(self) -> None:
        """Bring the echoes' watermark into the ledger if it answers; without it they are read again."""
        try:
            async with asyncio.timeout(LAST_FLUSH):
                await self.inbox.flush()
        except Exception as error:
            log.warning("the last echoes were not recorded; they are read again", error=repr(error))

    def wake(self) -> None:
        """Somebody made work elsewhere: look for it now."""
        self.executor.room_made.set()
        self.timers.wake()
        self._sweep_now.set()

    async def _sweep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_OUTBOX):
                    await self._sweep_now.wait()
            self._sweep_now.clear()
            try:
                if swept := await self.outbox.sweep():
                    log.info("published events that were left behind", events=swept)
            except Exception as error:
                if not is_outage(error):
                    log.exception("outbox sweep failed; trying again")
                await self._connections[1].drop()


@asynccontextmanager
async def running(runtime: Runtime) -> AsyncIterator[Runtime]:
    """A started runtime that is drained and stopped at the end."""
    runtime.start()
    try:
        yield runtime
    finally:
        await runtime.drain(5)
        await runtime.stop()
