"""What `tidemill up` runs: the data servers, the three neighbours, the schema, the view and a worker, until a signal."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from streams.local.child import ChildProcess, Errand
from streams.local.ports import HOST, Port
from streams.local.process import ServerProcess
from streams.local.serve import serve
from streams.local.stack import Say, Stack

HURRY = {
    "TIDEMILL_ML_ENGINE__POLL_EVERY": "PT2S",
    "TIDEMILL_RETRY__EVERY": "PT3S",
    "TIDEMILL_INFERENCE__HEALTH_DEADLINE": "PT30S",
    "TIDEMILL_QUALITY__FLAPPING_WITHIN": "PT5S",
}
"""For a demo or a test: the waits that are minutes in production."""


class Platform(Stack):
    """The stack with everything of ours on it; `worker=False` leaves the worker to the caller."""

    def __init__(self, home: Path, *, say: Say, worker: bool = True, quick: bool = False, faults: bool = False, init: bool = True) -> None:
        super().__init__(home, say=say)
        self.worker, self.quick, self.faults, self.init = worker, quick, faults, init
        self.neighbours: list[ServerProcess] = []
        self.own: list[ServerProcess] = []

    def declare(self) -> list[ServerProcess]:
        servers = super().declare()
        self.neighbours = self._neighbours()
        self.own = self._own(servers) if self.init else []
        return [*servers, *self.neighbours, *self.own]

    def _neighbours(self) -> list[ServerProcess]:
        """The monitor needs nobody; the others call the servers named after them when they start."""
        return [
            self._neighbour("ml_engine", Port.ML_ENGINE, (self.kafka, self.seaweedfs)),
            self._neighbour("inference", Port.INFERENCE, (self.valkey, self.seaweedfs)),
            self._neighbour("monitoring", Port.MONITORING, ()),
        ]

    def _neighbour(self, name: str, port: Port, after: Sequence[ServerProcess]) -> ServerProcess:
        own = {"REFERENCE_PORT": str(self.ports[port]), "REFERENCE_DATA": str(self.home.folder(name))}
        url = f"http://{HOST}:{self.ports[port]}/healthz"
        environment = self._reference_environment() | own
        return ChildProcess(self.home, name, [f"reference.{name}"], environment=environment, after=after, ready_url=url)

    def _reference_environment(self) -> dict[str, str]:
        return {
            "REFERENCE_KAFKA": self.addresses.kafka,
            "REFERENCE_S3_ENDPOINT": self.addresses.s3.endpoint,
            "REFERENCE_S3_ACCESS_KEY": self.addresses.s3.access_key,
            "REFERENCE_S3_SECRET_KEY": self.addresses.s3.secret_key,
            "REFERENCE_REDIS_URL": self.addresses.redis,
            "REFERENCE_WAREHOUSE": self.addresses.warehouse,
            "REFERENCE_ALLOW_FAULTS": "1" if self.faults else "0",
        }

    def _own(self, servers: Sequence[ServerProcess]) -> list[ServerProcess]:
        init = Errand(self.home, "init", ["streams.cli", "init", "--warehouse"], environment=self._environment(), after=servers)
        view = self._worker("view", ["--role", "view"], (init,), ready_url=f"{self.addresses.web}/livez")
        return [init, view, *([self._worker("worker", [], (init,))] if self.worker else [])]

    def _worker(self, name: str, flags: Sequence[str], after: Sequence[ServerProcess], ready_url: str | None = None) -> ServerProcess:
        module = ["streams.cli", "worker", *flags]
        return ChildProcess(self.home, name, module, environment=self._environment(), after=after, ready_url=ready_url)

    def _environment(self) -> Mapping[str, str]:
        """Addresses always, and tenants made as they come unless the caller's environment says otherwise."""
        chosen = {"TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create", **(HURRY if self.quick else {})}
        unset = {key: value for key, value in chosen.items() if key not in os.environ}
        return unset | self.addresses.environment() | {"TIDEMILL_HOME": str(self.home.path)}

    @property
    def welcome(self) -> str:
        return f"pages at {self.addresses.web}, {super().welcome}"

    def stop_order(self) -> Sequence[Sequence[ServerProcess]]:
        """Workers while everything they need still serves, data last."""
        ours = [*self.own, *self.neighbours]
        servers = [process for process in self.processes if process not in ours]
        return [self.own, self.neighbours, servers]


async def up(home: Path, *, say: Say, worker: bool = True, quick: bool = False, faults: bool = False) -> int:
    """Run the whole platform in the foreground; gives the exit status."""
    return await serve(Platform(home, say=say, worker=worker, quick=quick, faults=faults), say)
