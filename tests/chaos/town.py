"""The town that chaos comes to: real servers that may die and come back, light neighbours, and workers behind proxies."""

import asyncio
import signal
import sys
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
from tests.chaos.store import Store
from tests.chaos.workers import ROOT, Worker, clean_environment

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
    """The broker, with a listener of its own for each worker: it tells that worker's clients the address of the worker's proxy."""

    doors: Sequence[tuple[int, int]] = ()
    """(port of the proxy, port of the listener behind it)."""

    async def prepare(self) -> None:
        await super().prepare()
        names = [f"DOOR{number}" for number, _ in enumerate(self.doors)]
        inner = [f"{name}://{HOST}:{behind}" for name, (_, behind) in zip(names, self.doors, strict=True)]
        outer = [f"{name}://{HOST}:{before}" for name, (before, _) in zip(names, self.doors, strict=True)]
        file = self.home.folder("kafka") / "server.properties"
        values = dict(line.split("=", 1) for line in file.read_text().splitlines())
        values["listeners"] = ",".join([values["listeners"], *inner])
        values["advertised.listeners"] = ",".join([values["advertised.listeners"], *outer])
        protocols = [values["listener.security.protocol.map"], *(f"{name}:PLAINTEXT" for name in names)]
        values["listener.security.protocol.map"] = ",".join(protocols)
        file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))


class MortalPostgres(Mortal, LocalPostgres):
    """The database server."""


class Town(Platform):
    """Servers and neighbours; `settle` adds the workers."""

    def __init__(
        self, home: Path, *, workers: int, settings: Mapping[str, str], mutant: str | None = None, say: Callable[[str], None] = quiet
    ) -> None:
        super().__init__(home, say=say, faults=True)
        self.count, self.settings, self.mutant = workers, settings, mutant
        self.workers: list[Worker] = []
        self.doors: list[dict[str, Proxy]] = []
        """For each worker what stands between it and kafka, postgres, s3, ml_engine and inference."""
        self._guests = 0

    def declare(self) -> list[ServerProcess]:
        Stack.declare(self)
        self.kafka = MortalKafka(self.home, self.ports[Port.KAFKA], self.ports[Port.KAFKA_CONTROLLER])
        ports = free_ports(2 * self.count, self._first_port)
        self.kafka.doors = list(zip(ports[::2], ports[1::2], strict=True))
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
        if name != "monitoring":
            real.module = ["tests.chaos.stub", name]
        return real

    @property
    def _first_port(self) -> int:
        return 26_000 + (self.ports.base - 20_000) // 2

    async def settle(self) -> None:
        """Start the workers, each behind proxies of its own."""
        for number in range(1, self.count + 1):
            self.workers.append(await self._house(number))
        if self.mutant:
            environment = clean_environment(self.workers[0].environment)
            breaking = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.chaos.mutant", self.mutant, env=environment, cwd=ROOT)
            assert await breaking.wait() == 0, "the ledger could not be broken"
        await asyncio.gather(*(worker.start() for worker in self.workers))
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    def guest(self) -> Worker:
        """A place for one more worker, without proxies; it is not started."""
        self._guests += 1
        return self._place(f"guest-{self._guests}", {})

    async def _house(self, number: int) -> Worker:
        at, (before, behind) = self.addresses, self.kafka.doors[number - 1]
        servers = {"postgres": at.postgres, "s3": at.s3.endpoint, "ml_engine": at.ml_engine, "inference": at.inference}
        doors = {name: (Store if name == "s3" else Proxy)(*address(url)) for name, url in servers.items()} | {"kafka": Proxy(HOST, behind)}
        ports = [*free_ports(4, self._first_port + 40 + number * 12), before]
        for port, door in zip(ports, doors.values(), strict=True):
            await door.start(port)
        self.doors.append(doors)
        here = {name: f"{HOST}:{door.port}" for name, door in doors.items()}
        own = {
            "TIDEMILL_KAFKA__BOOTSTRAP": here["kafka"],
            "TIDEMILL_LEDGER__DSN": at.postgres.replace(f"{HOST}:{self.ports[Port.POSTGRES]}/", f"{here['postgres']}/"),
            "TIDEMILL_S3__ENDPOINT": f"http://{here['s3']}",
            "TIDEMILL_ML_ENGINE__URL": f"http://{here['ml_engine']}",
            "TIDEMILL_INFERENCE__URL": f"http://{here['inference']}",
        }
        assert own["TIDEMILL_LEDGER__DSN"] != at.postgres
        return self._place(f"worker-{number}", own)

    def _place(self, name: str, own: Mapping[str, str]) -> Worker:
        module = ("tests.chaos.mutant", self.mutant) if self.mutant else ("streams.cli",)
        return Worker(name, self.home.path, {**self._environment(), **PACE, **self.settings, **own}, module)

    async def leave(self) -> None:
        """Workers first, then what stands before them."""
        await asyncio.gather(*(worker.kill() for worker in self.workers))
        for door in self._all_doors():
            await door.stop()

    def heal(self) -> None:
        """All proxies let everything through."""
        for door in self._all_doors():
            door.heal()

    def _all_doors(self) -> list[Proxy]:
        return [door for doors in self.doors for door in doors.values()]


def free_ports(count: int, start: int) -> list[int]:
    """Ports below the range of outgoing connections that nobody listens on."""
    found = [port for port in range(start, 32_700) if is_free(port)][:count]
    assert len(found) == count, "no free ports"
    return found
