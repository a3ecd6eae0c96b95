"""The four data servers under one supervisor: started together, stopped together, for `tidemill up` and for the tests."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import mode

from streams.local.addresses import Addresses, S3Address
from streams.local.errors import first_cause
from streams.local.home import Home, write_private
from streams.local.kafka import LocalKafka
from streams.local.ports import HOST, Port, take
from streams.local.postgres import LocalPostgres
from streams.local.process import ServerProcess
from streams.local.seaweedfs import LocalSeaweedFS
from streams.local.valkey import LocalValkey
from streams.settings import S3Settings

Say = Callable[[str], None]
BUCKETS = S3Settings().buckets


def quiet(line: str) -> None:
    """For callers who want no progress lines."""


class Stack(mode.Service):
    """Everything in one home folder; `addresses` is known once it has started."""

    mundane_level = "debug"

    def __init__(self, home: Path, *, say: Say = quiet, buckets: Sequence[str] = BUCKETS) -> None:
        super().__init__()
        self.home = Home(home, say)
        self.buckets = buckets
        self.processes: list[ServerProcess] = []
        self.guard: socket.socket | None = None

    @property
    def file(self) -> Path:
        return self.home.path / "stack.json"

    async def on_start(self) -> None:
        await self.home.take()
        self.file.unlink(missing_ok=True)  # of a stack that was killed
        self.ports, self.guard = take(self.home.remembered("ports.json"))
        write_private(self.home.path / "ports.json", json.dumps(self.ports.kept()))
        self.processes = self.declare()
        await self._start_all()
        if self.crash_reason is not None:  # one died while the others were still starting
            raise self.crash_reason
        self.addresses.write(self.file)

    def declare(self) -> list[ServerProcess]:
        """What this stack consists of; `up` adds the neighbours and our own processes."""
        secrets = self.home.secrets()
        self.kafka = LocalKafka(self.home, self.ports[Port.KAFKA], self.ports[Port.KAFKA_CONTROLLER])
        self.postgres = LocalPostgres(self.home, self.ports[Port.POSTGRES], secrets)
        self.valkey = LocalValkey(self.home, self.ports[Port.VALKEY])
        self.seaweedfs = LocalSeaweedFS(self.home, self.ports, secrets, self.buckets)
        self.addresses = self._addresses()
        return [self.kafka, self.postgres, self.valkey, self.seaweedfs]

    def _addresses(self) -> Addresses:
        keys = self.seaweedfs.secrets
        url = {port: f"http://{HOST}:{self.ports[port]}" for port in (Port.ML_ENGINE, Port.INFERENCE, Port.MONITORING, Port.WEB)}
        return Addresses(
            kafka=self.kafka.bootstrap,
            postgres=self.postgres.dsn("tidemill"),
            warehouse=self.postgres.dsn("warehouse"),
            redis=self.valkey.url,
            s3=S3Address(endpoint=self.seaweedfs.endpoint, access_key=keys.access_key, secret_key=keys.secret_key),
            ml_engine=url[Port.ML_ENGINE],
            inference=url[Port.INFERENCE],
            monitoring=url[Port.MONITORING],
            web=url[Port.WEB],
        )

    async def _start_all(self) -> None:
        """All at once; the first that fails stops the others in the middle of their start."""
        try:
            async with asyncio.TaskGroup() as group:
                for process in self.processes:
                    group.create_task(self._start_one(process))
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from None

    async def _start_one(self, process: ServerProcess) -> None:
        await self.add_runtime_dependency(process)

    @property
    def welcome(self) -> str:
        """Where to look, once everything is up."""
        return f"logs in {self.home.logs}"

    async def on_stop(self) -> None:
        if self.home.lock_fd is not None:  # else the folder, and the file, are another stack's
            self.file.unlink(missing_ok=True)
        for wave in self.stop_order():
            await asyncio.gather(*(process.stop() for process in wave))

    def stop_order(self) -> Sequence[Sequence[ServerProcess]]:
        """Who stops together, and after whom."""
        return [self.processes]

    async def on_shutdown(self) -> None:
        if self.guard is not None:
            self.guard.close()
        self.home.release()


@asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Stack]:
    """A started stack; however the block or the start ends, nothing of it is left."""
    try:
        await stack.start()
        yield stack
    finally:
        await asyncio.shield(stack.stop())


@asynccontextmanager
async def running_stack(home: Path, *, say: Say = quiet, buckets: Sequence[str] = BUCKETS) -> AsyncIterator[Addresses]:
    """The four data servers for a test session: `async with running_stack(tmp) as addresses`."""
    async with running(Stack(home, say=say, buckets=buckets)) as stack:
        yield stack.addresses
