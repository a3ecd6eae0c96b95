"""This worker's place among the workers: a slot held by an advisory lock, and the lease that a heartbeat keeps alive.

It runs in a thread with a loop and a connection of its own, so that a busy event loop does not cost the lease.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog

from streams.clock import Clock
from streams.ledger.connection import connect, is_outage
from streams.settings import Settings

log = structlog.get_logger(__name__)

MOST_SLOTS = 256
WAKE_CHANNEL = "tidemill_wake"
_SLOT_LOCKS = 741_120
_MARGIN = 1.0
"""Seconds before its end in which a lease is not trusted any more."""


class SlotTaken(Exception):
    """The slot asked for belongs to a live worker."""


class Membership:
    """Slot and lease of one worker process."""

    def __init__(self, settings: Settings, clock: Clock, *, slot: int | None = None) -> None:
        self._dsn = settings.ledger.dsn.get_secret_value()
        self._lease, self._beat = settings.runtime.lease, settings.runtime.heartbeat
        self._clock, self._wanted = clock, slot
        self.worker: UUID = uuid4()
        self.slot = 0
        self.epoch = 0
        """Grows whenever the lease had run out: what was in hand before is not trusted any more."""
        self.outage: str | None = None
        self.on_wake: Callable[[], object] | None = None
        """Called (in the heartbeat's thread) when somebody made work for the workers."""
        self.on_lost: Callable[[str], None] | None = None
        self._renewed = 0.0
        self._stop = threading.Event()
        self._ready: threading.Event = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._main, name="membership", daemon=True)

    def start(self) -> None:
        """Take a slot; waits for the database when it is away. Raises `SlotTaken`."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Give slot and lease up."""
        self._stop.set()
        self._thread.join(timeout=5)

    def held(self, epoch: int) -> bool:
        """Whether the lease is alive and was so without a break since `epoch`."""
        return epoch == self.epoch and time.monotonic() < self._renewed + self._lease - _MARGIN

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:
            self._failure = error
            if self._ready.is_set() and self.on_lost:
                self.on_lost(str(error))
        finally:
            self._ready.set()

    async def _run(self) -> None:
        connection: asyncpg.Connection[Any] | None = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.is_closed():
                    connection = await self._join()
                await self._renew(connection)
                self.outage = None
                self._ready.set()
            except Exception as error:
                if not is_outage(error):
                    raise
                if self.outage is None:
                    log.warning("the ledger cannot be reached; waiting for it", code="ledger_away", error=repr(error))
                self.outage = repr(error)
                if connection is not None:
                    connection.terminate()
                connection = None
                await asyncio.sleep(0.5)
                continue
            await asyncio.to_thread(self._stop.wait, self._beat)
        if connection is not None:
            await self._leave(connection)

    async def _leave(self, connection: "asyncpg.Connection[Any]") -> None:
        """Give the lease up; when the ledger has just gone away, it runs out by itself."""
        try:
            await connection.execute("update workers set lease_until = '-infinity', stopped_at = clock_timestamp() where worker_id = $1", self.worker)
            await connection.close(timeout=2)
        except Exception as error:
            if not is_outage(error):
                raise

    async def _join(self) -> "asyncpg.Connection[Any]":
        """A connection that holds the slot. After an outage the server may not have noticed the end of our last one, which holds it still."""
        patience = time.monotonic() + (self._lease if self.slot else 0)
        while True:
            try:
                return await self._take_slot()
            except SlotTaken:
                if time.monotonic() >= patience or self._stop.is_set():
                    raise
            await asyncio.sleep(0.5)

    async def _take_slot(self) -> "asyncpg.Connection[Any]":
        connection = await connect(self._dsn, timeout=5, name="tidemill-membership")
        wanted = self.slot or self._wanted
        slots = [wanted] if wanted else list(range(1, MOST_SLOTS + 1))
        for slot in slots:
            if await connection.fetchval("select pg_try_advisory_lock($1, $2)", _SLOT_LOCKS, slot):
                self.slot = slot
                await connection.execute(
                    "select join_slot($1, $2, $3, $4, $5)", self.worker, slot, socket.gethostname(), os.getpid(), float(self._lease)
                )
                await connection.add_listener(WAKE_CHANNEL, self._wake)
                return connection
        await connection.close(timeout=2)
        if wanted:
            raise SlotTaken(f"slot {wanted} belongs to a live worker; start this one with another --slot, or without one")
        raise SlotTaken(f"all {MOST_SLOTS} slots belong to live workers")

    async def _renew(self, connection: "asyncpg.Connection[Any]") -> None:
        began = time.monotonic()
        row = await connection.fetchrow(
            "update workers set lease_until = clock_timestamp() + make_interval(secs => $2) where worker_id = $1 and lease_until > '-infinity' "
            "returning clock_timestamp() as now, (select ahead from clock) as ahead",
            self.worker,
            float(self._lease),
        )
        if row is None:
            raise SlotTaken(f"the lease of slot {self.slot} was taken over by another worker; this one ends")
        if self._renewed and began > self._renewed + self._lease - _MARGIN:
            self.epoch += 1
            log.warning("the lease had run out (a pause, or an outage); steps in hand are dropped", code="lease_lapsed", slot=self.slot)
        self._renewed = began
        self._clock.set(row["now"], row["ahead"])

    def _wake(self, *_: Any) -> None:
        if self.on_wake:
            self.on_wake()
