"""The whole runtime on a fresh ledger, with Kafka played by a list: what is published comes back as an echo."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from streams.clock import Clock
from streams.items import Arrived
from streams.ledger.connection import connect
from streams.ledger.ledger import Ledger
from streams.pipelines import Pipelines
from streams.proof.check import check
from streams.runtime import Runtime, running
from streams.settings import LedgerSettings, RuntimeSettings, Settings
from streams.stage import Pipeline

CLUSTER = "test-cluster"


class Lease:
    """A lease that a test can take away."""

    def __init__(self) -> None:
        self.worker, self.epoch, self.alive = uuid4(), 0, True

    def held(self, epoch: int) -> bool:
        return self.alive and epoch == self.epoch


class Room:
    free = 2


class Road:
    """Kafka as a list a topic: acknowledges at once and hands each record back to whoever reads."""

    def __init__(self) -> None:
        self.log: dict[str, list[Arrived]] = {}
        self.readers: list[Callable[[Arrived], Any]] = []
        self.down = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def send(self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.down:
            from aiokafka.errors import KafkaConnectionError

            future.set_exception(KafkaConnectionError("the broker is down"))
            return future
        self.put(topic, value, key, headers or [])
        future.set_result(None)
        return future

    def put(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()) -> Arrived:
        """Publish as anybody may; gives the record."""
        log = self.log.setdefault(topic, [])
        record = Arrived(topic, 0, len(log), int(time.time() * 1000), key, value, list(headers))
        log.append(record)
        for reader in self.readers:
            task = asyncio.get_running_loop().create_task(reader(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return record

    def events(self, topic: str) -> list[dict[str, Any]]:
        """The data of what lies on a topic, once an event id."""
        seen = {dict(record.headers).get("ce_id", record.offset): json.loads(record.value or b"null") for record in self.log.get(topic, [])}
        return list(seen.values())


class Travel:
    """A worker on a ledger of its own, and what a test wants to see of it."""

    def __init__(
        self, dsn: str, pipelines: Sequence[Pipeline], services: Any, *, eager: bool = True, road: Road | None = None, **runtime: Any
    ) -> None:
        runtime = {"eager": eager, "poll": 0.05, "unknown_tenants": "create"} | runtime
        ledger = LedgerSettings.model_validate({"dsn": dsn})
        self.settings = Settings(ledger=ledger, runtime=RuntimeSettings.model_validate(runtime))
        self.dsn, self.road, self.lease, self.clock = dsn, road or Road(), Lease(), AheadClock()
        self.ledger, self.services = Ledger(ledger, self.clock, worker=self.lease.worker), services
        self.unread: set[str] = set()
        """Topics on which the worker does not see what comes."""
        self.runtime = Runtime(
            Pipelines(pipelines, self.settings),
            services,
            self.ledger,
            self.road,
            lease=self.lease,
            cpu=Room(),
            cluster=CLUSTER,
            caught_up=lambda topic, since: topic not in self.unread,
        )
        self.topics = {*self.runtime.pipelines.topics}

    async def read(self, record: Arrived) -> None:
        if record.topic in self.topics - self.unread:
            await self.runtime.inbox.take(record)

    def request(self, tenant: str = "acme", **data: Any) -> Arrived:
        """Publish `training.requested` as bare JSON."""
        return self.road.put("training.requested", json.dumps({"tenant_id": tenant, **data}).encode())

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(sql, *args)]
        finally:
            await connection.close()

    async def see(self, sql: str, *args: Any, rows: int = 1, within: float = 30) -> list[dict[str, Any]]:
        """The rows as soon as there are so many."""
        end = time.monotonic() + within
        while len(found := await self.rows(sql, *args)) < rows:
            assert time.monotonic() < end, f"not seen within {within} s: {sql}; there is: {found}"
            await asyncio.sleep(0.02)
        return found

    async def events(self, topic: str) -> list[dict[str, Any]]:
        """The data of what lies on a topic, once an event id, as soon as nothing is left to publish."""
        await self.published()
        return self.road.events(topic)

    async def published(self) -> None:
        """Return once nothing is left in the outbox."""
        await self.see("select 1 where not exists (select 1 from outbox)")

    async def runs(self) -> list[dict[str, Any]]:
        return await self.rows("select * from runs order by requested_at, run_id")

    async def until(self, check: Callable[[list[dict[str, Any]]], Any], *, within: float = 30) -> list[dict[str, Any]]:
        """The runs as soon as they are as asked for."""
        end = time.monotonic() + within
        while True:
            runs = await self.runs()
            if check(runs):
                return runs
            if time.monotonic() > end:
                steps = await self.rows("select run_id, stage, state, round, attempt, code, error, waiting_for, due_at, worker from steps")
                raise AssertionError(f"not reached within {within} s; runs: {runs}; steps: {steps}")
            await asyncio.sleep(0.02)

    async def over(self, count: int = 1, *, within: float = 30) -> list[dict[str, Any]]:
        """The runs when `count` of them are over and none is open."""
        return await self.until(lambda runs: len(runs) >= count and all(run["finished_at"] for run in runs), within=within)

    async def wait_out(self, count: int = 1, *, within: float = 30) -> list[dict[str, Any]]:
        """The same, while time passes quickly enough for the next look at every job."""
        async with asyncio.timeout(within):
            while len(runs := await self.runs()) < count or not all(run["finished_at"] for run in runs):
                await self.minutes_pass()
                await asyncio.sleep(0.1)
        return runs

    async def minutes_pass(self) -> None:
        """Two of them, if there is a job that is not to be looked at yet: whoever looks at this very moment waits anew from then on."""
        if await self.rows("select 1 from steps where state = 'waiting' and due_at > $1", self.clock.now()):
            self.clock.ahead += timedelta(minutes=2)

    async def journal(self, run_id: UUID) -> list[dict[str, Any]]:
        return await self.rows("select seq, kind, topic, data from journal where run_id = $1 order by seq", run_id)


class AheadClock(Clock):
    """The real time, moved on by the test."""

    ahead = timedelta()

    def now(self) -> Any:
        return super().now() + self.ahead


@asynccontextmanager
async def travelling(travel: Travel, *, folds: bool = True) -> AsyncIterator[Travel]:
    """The worker at work; drained and stopped at the end, when the rows must be what the journal folds to. `folds=False`: the test forges rows."""
    await register(travel.dsn, travel.lease.worker)
    travel.ledger.start()
    travel.road.readers.append(travel.read)
    try:
        async with running(travel.runtime):
            yield travel
            travel.road.readers.remove(travel.read)
    finally:
        await travel.ledger.stop()
    if folds:
        raw = await connect(travel.dsn, timeout=30, name="test")
        try:
            found = (await check(raw)).differences
            assert found == [], found
        finally:
            await raw.close()


async def register(dsn: str, worker: UUID) -> None:
    """A live lease for a worker without a heartbeat."""
    connection = await asyncpg.connect(dsn)
    try:
        slot = await connection.fetchval("select count(*)::int + 1 from workers")
        await connection.execute("select join_slot($1, $2, 'test', 1, 3600)", worker, slot)
    finally:
        await connection.close()
