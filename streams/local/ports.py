"""Which ports a stack listens on: a block of twenty below 32768, the same at every start unless somebody else took it."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from streams.local.errors import LocalError

HOST = "127.0.0.1"
FIRST, LAST, SIZE = 20_000, 32_000, 20
"""Below 32768, where outgoing connections begin to take ports at random."""
WEB = 8080


class Port(IntEnum):
    """Who listens where, counted from the start of the block."""

    GUARD = 0  # held by the supervisor itself, so that two starting at once never choose one block
    KAFKA = 1
    KAFKA_CONTROLLER = 2
    POSTGRES = 3
    VALKEY = 4
    S3 = 5
    S3_GRPC = 6
    MASTER = 7
    MASTER_GRPC = 8
    VOLUME = 9
    VOLUME_GRPC = 10
    FILER = 11
    FILER_GRPC = 12
    ADMIN = 13
    ADMIN_GRPC = 14
    ML_ENGINE = 15
    INFERENCE = 16
    MONITORING = 17
    WEB = 18  # the pages, when 8080 is somebody else's


@dataclass(frozen=True, slots=True)
class Ports:
    base: int
    web: int

    def __getitem__(self, port: Port) -> int:
        return self.web if port is Port.WEB else self.base + port

    def kept(self) -> dict[str, int]:
        return {"base": self.base, "web": self.web}


def choose(kept: dict[str, int], is_free: Callable[[int], bool]) -> Iterator[Ports]:
    """Blocks that are free, the one of the last start first; the caller takes the first whose guard it gets."""
    remembered = kept.get("base", FIRST)
    for base in (remembered, *range(FIRST, LAST, SIZE)):
        if FIRST <= base < LAST and all(is_free(base + port) for port in Port):
            web = next((port for port in (kept.get("web", WEB), WEB) if is_free(port)), base + Port.WEB)
            yield Ports(base, web)


def take(kept: dict[str, int]) -> tuple[Ports, socket.socket]:
    """A block nobody else has, and the listening socket that keeps it so."""
    for ports in choose(kept, is_free):
        guard = socket.socket()
        try:
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            guard.bind((HOST, ports[Port.GUARD]))
            guard.listen(1)
        except OSError:  # another supervisor was faster
            guard.close()
        else:
            return ports, guard
    raise LocalError(f"No {SIZE} free ports in a row between {FIRST} and {LAST}: stop some of the stacks that run on this machine.")


def is_free(port: int) -> bool:
    """Nobody listens there, and no other user's SeaweedFS left a socket file that ours could not replace."""
    if any(not _ours(file) for file in stale_sockets(port)):
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: closed connections do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def stale_sockets(port: int) -> list[Path]:
    """SeaweedFS puts Unix sockets into /tmp whatever TMPDIR says, named after the port, and may leave them there."""
    return list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))


def _ours(file: Path) -> bool:
    try:
        return os.geteuid() in (0, file.stat().st_uid)
    except OSError:
        return True
