"""A worker process: its slot, the Faust transport app, and the runtime that the app's agents feed."""

import asyncio
import gc
import os
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import faust
import structlog

from streams import leave
from streams.beside import beside
from streams.clock import Clock
from streams.disk import remove_leftovers
from streams.gaps import Gaps
from streams.kafka import TopicsWrong, open_producer, wait_for_cluster
from streams.ledger.connection import Connection
from streams.ledger.ledger import Ledger
from streams.ledger.versions import LedgerVersions
from streams.logs import set_up
from streams.membership import Membership, SlotTaken
from streams.pipelines import Pipelines
from streams.probes import Running, add_probes
from streams.quality import LedgerQuality
from streams.reconcile import Reconciler
from streams.runtime import Runtime
from streams.settings import Settings, load
from streams.transport import add_agents, make_app

log = structlog.get_logger(__name__)

SWITCH = 0.0005
"""Seconds after which a thread gives the interpreter up when another waits: the loop waited for 5 ms while Faust's thread read what was fetched."""
GRACE = 10.0
"""Seconds that steps in hand get to finish after SIGTERM; then they are given back."""


class WorkerApp(faust.App):
    """The transport app: opens the runtime before the first event, drains it before the last."""

    mundane_level = "debug"
    pipelines: Pipelines
    membership: Membership
    clock: Clock
    runtime: Runtime
    gaps: Gaps
    reconciler: Reconciler
    leaving: bool
    """Whether its end gives its partitions up, as when there shall be fewer workers from now on."""
    _stack: AsyncExitStack

    async def on_start(self) -> None:
        await super().on_start()
        settings = self.pipelines.settings
        if settings.runtime.pages_port is not None:
            await self.web.maybe_start()  # Faust would serve them only when all is up, and it is before that that one asks why it is not
        try:
            cluster = await wait_for_cluster(settings.kafka)
        except TopicsWrong as wrong:
            log.error(str(wrong), code="topics_wrong")
            raise SystemExit(3) from wrong
        self.reconciler = Reconciler(settings, self.pipelines.topics)
        await self.reconciler.run()
        if left := await asyncio.to_thread(remove_leftovers):
            log.info("folders that killed workers left on the disk were deleted", folders=left)
        self._stack = stack = AsyncExitStack()
        producer = await stack.enter_async_context(open_producer(settings.kafka))
        ledger = Ledger(settings.ledger, self.clock, worker=self.membership.worker)
        ledger.start()
        stack.push_async_callback(ledger.stop)
        dsn = settings.ledger.dsn.get_secret_value()
        versions, standing = Connection(dsn, name="tidemill-versions"), Connection(dsn, name="tidemill-quality")
        stack.push_async_callback(versions.close)
        stack.push_async_callback(standing.close)
        quality = LedgerQuality(standing, ledger, self.pipelines)
        services = await stack.enter_async_context(load(settings.services)(settings, LedgerVersions(versions), quality))
        await stack.enter_async_context(beside(self.pipelines, services, ledger))
        self.runtime = Runtime(
            self.pipelines,
            services,
            ledger,
            producer,
            lease=self.membership,
            cpu=services.cpu,
            cluster=cluster,
            caught_up=lambda topic, since: self.gaps.caught_up(topic, since),
        )
        self.gaps = Gaps(settings, self.pipelines.topics, self.runtime.inbox.take, self.runtime.inbox.settle_strangers, self.clock)
        self.runtime.start()
        stack.push_async_callback(self.runtime.stop)
        stack.push_async_callback(self.gaps.close)
        sweeping = asyncio.create_task(self.gaps.run())
        stack.callback(sweeping.cancel)
        loop = asyncio.get_running_loop()
        self.membership.on_wake = partial(loop.call_soon_threadsafe, self.runtime.wake)
        gc.collect()
        gc.freeze()  # what is here now stays for good: looking through it for cycles held everybody up for 150 ms, now and then
        log.info("worker ready", slot=self.membership.slot, worker=str(self.membership.worker), topics=len(self.pipelines.topics))

    async def on_stop(self) -> None:
        await super().on_stop()
        if hasattr(self, "runtime"):
            log.info("stopping: steps in hand get their grace, then they are given back", slot=self.membership.slot)
            await self.runtime.drain(GRACE)
            if self.leaving:
                leave.at_stop(self)

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        if hasattr(self, "_stack"):
            await self._stack.aclose()


class Worker(faust.Worker):
    """Faust's worker without its banner and logging: ours are set up already."""

    def _setup_logging(self) -> None:
        return

    async def on_startup_finished(self) -> None:
        return


def run(settings: Settings, *, slot: int | None = None, leaving: bool = False) -> int:
    """Run a worker until it is told to stop; `leaving`: its partitions are others' at once then.

    Exit code: 0 stopped, 1 it failed, 3 what it needs is not there.
    """
    set_up(settings)
    sys.setswitchinterval(SWITCH)
    _use_uvloop()
    clock = Clock()
    membership = Membership(settings, clock, slot=slot)
    membership.on_lost = _end_process
    try:
        membership.start()
    except SlotTaken as taken:
        log.error(str(taken), code="slot_taken")
        return 3
    pipelines = Pipelines.load(settings)
    app: Any = make_app(settings, slot=membership.slot, app_class=WorkerApp, skim=lambda record: app.runtime.inbox.skim(record))
    assert isinstance(app, WorkerApp)
    app.pipelines, app.membership, app.clock, app.leaving = pipelines, membership, clock, leaving

    async def take(record: Any) -> None:
        await app.runtime.inbox.take(record)

    add_agents(app, pipelines.topics, take)
    add_probes(app, membership, Running(app))
    try:
        Worker(app, quiet=True, redirect_stdouts=False, loglevel=settings.log_level).execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        membership.stop()


def _use_uvloop() -> None:
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _end_process(reason: str) -> None:
    """The slot is lost to another worker: consuming on would be a second voice under one name."""
    sys.stderr.write(f"slot_lost: {reason}\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
