"""The town that chaos comes to: real servers that may die and come back, light neighbours, and workers behind proxies."""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streams.local import spawn
from streams.local.child import ChildProcess, Errand
from streams.local.kafka import LocalKafka
from streams.local.ports import HOST, Port, is_free
from streams.local.postgres import LocalPostgres
from streams.local.process import ServerProcess
from streams.local.stack import Stack, quiet
from streams.local.up import Platform
from tests.chaos.proxy import Proxy, address
from tests.chaos.workers import ROOT, Worker

PACE = {
    "TIDEMILL_ML_ENGINE__POLL_EVERY": "PT3S",
    "TIDEMILL_ML_ENGINE__DEADLINE": "PT5M",
    "TIDEMILL_ML_ENGINE__TIMEOUT": "5",
    "TIDEMILL_INFERENCE__TIMEOUT": "5",
    "TIDEMILL_INFERENCE__HEALTH_DEADLINE": "PT1M",
    "TIDEMILL_INDEX__BUILDER": "engine",
    "TIDEMILL_RETRY__ATTEMPTS": "40",
    "TIDEMILL_RETRY__EVERY": "PT1S",
    "TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create",
}
"""Waits that are minutes in production are seconds; lease and heartbeat stay as they are."""


class Mortal(ServerProcess):
    """A server whose death is part of the plan: the stack does not fall with it."""

    abstract = True
    _back: asyncio.Event | None = None

    async def on_death(self) -> None:
        self._back = self._back or asyncio.Event()
        await self._back.wait()

    async def take_down(self, how: signal.Signals) -> None:
        """End it as an operator or a crash would, and wait until it is gone."""
        assert self.process is not None
        self._back = asyncio.Event()
        self.process.send_signal(how)
        await asyncio.wait_for(self.process.wait(), 30)
        spawn.sweep(self.process.pid)

    async def bring_back(self) -> None:
        """The same server on the same data; returns when it serves."""
        await self.launch()
        async with asyncio.timeout(self.ready_timeout):
            await self._ready_or_dead()
        assert self._back is not None
        self._back.set()


class MortalKafka(Mortal, LocalKafka):
    """The broker."""


class MortalPostgres(Mortal, LocalPostgres):
    """The database server."""


class Town(Platform):
    """Servers and neighbours; `settle` adds the workers."""

    def __init__(self, home: Path, *, workers: int, settings: Mapping[str, str], light: bool = True, say: Callable[[str], None] = quiet) -> None:
        super().__init__(home, say=say, faults=True)
        self.count, self.settings, self.light = workers, settings, light
        self.workers: list[Worker] = []
        self.pg_proxies: list[Proxy] = []
        self.neighbour_proxies: list[dict[str, Proxy]] = []

    def declare(self) -> list[ServerProcess]:
        Stack.declare(self)
        self.kafka = MortalKafka(self.home, self.ports[Port.KAFKA], self.ports[Port.KAFKA_CONTROLLER])
        self.postgres = MortalPostgres(self.home, self.ports[Port.POSTGRES], self.home.secrets())
        servers: list[ServerProcess] = [self.kafka, self.postgres, self.valkey, self.seaweedfs]
        self.neighbours = self._neighbours()
        settings = {**self._environment(), "PYTHONPATH": str(ROOT)}
        init = Errand(self.home, "init", ["streams.cli", "init"], environment=settings, after=servers)
        self.own = [init]
        return [*servers, *self.neighbours, init]

    def _neighbour(self, name: str, port: Port, after: Sequence[ServerProcess]) -> ServerProcess:
        real = super()._neighbour(name, port, after)
        assert isinstance(real, ChildProcess)
        real.environment = {**real.environment, "PYTHONPATH": str(ROOT)}
        if self.light and name != "monitoring":
            real.module = ["tests.chaos.stub", name]
        return real

    async def settle(self) -> None:
        """Start the workers, each behind proxies of its own."""
        for number in range(1, self.count + 1):
            self.workers.append(await self.house(number))
        await asyncio.gather(*(worker.start() for worker in self.workers))
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    async def house(self, number: int) -> Worker:
        """A place for one more worker, behind proxies of its own; it is not started."""
        ports = free_ports(3, 26_000 + (self.ports.base - 20_000) // 2 + number * 12)
        pg = Proxy(*address(self.addresses.postgres))
        await pg.start(ports[0])
        self.pg_proxies.append(pg)
        there = {"ml_engine": self.addresses.ml_engine, "inference": self.addresses.inference}
        proxies = {name: Proxy(*address(url)) for name, url in there.items()}
        for port, proxy in zip(ports[1:], proxies.values(), strict=True):
            await proxy.start(port)
        self.neighbour_proxies.append(proxies)
        dsn = self.addresses.postgres.replace(f":{self.ports[Port.POSTGRES]}/", f":{ports[0]}/")
        urls = {f"TIDEMILL_{name.upper()}__URL": f"http://{HOST}:{proxy.port}" for name, proxy in proxies.items()}
        environment = {**self._environment(), **PACE, **self.settings, **urls, "TIDEMILL_LEDGER__DSN": dsn}
        return Worker(f"worker-{number}", self.home.path, environment)

    async def leave(self) -> None:
        """Workers first, then what stands before them."""
        await asyncio.gather(*(worker.kill() for worker in self.workers))
        for proxy in [*self.pg_proxies, *(each for proxies in self.neighbour_proxies for each in proxies.values())]:
            await proxy.stop()

    def heal(self) -> None:
        """All proxies let everything through."""
        for proxy in [*self.pg_proxies, *(each for proxies in self.neighbour_proxies for each in proxies.values())]:
            proxy.heal()


def free_ports(count: int, start: int) -> list[int]:
    """Ports below the range of outgoing connections that nobody listens on."""
    found = [port for port in range(start, 32_700) if is_free(port)][:count]
    assert len(found) == count, "no free ports"
    return found
