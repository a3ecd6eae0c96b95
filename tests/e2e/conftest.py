"""One set of real servers for the tests of whole workers."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.chaos.proxy import address, proxied
from tests.chaos.workers import ROOT, clean_environment
from tests.e2e.house import House
from tests.integration.test_reference_neighbours import free_ports
from tests.stack import running_servers


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    home = tmp_path_factory.mktemp("kills", numbered=True) / "home"
    with running_servers(home, neighbours=True) as addresses:
        command = [sys.executable, "-m", "streams.cli", "init"]
        subprocess.run(command, cwd=ROOT, env=clean_environment({"TIDEMILL_HOME": str(home)}), check=True, timeout=60)
        yield home, addresses


@pytest.fixture
async def house(servers: tuple[Path, dict[str, Any]]) -> AsyncIterator[House]:
    home, at = servers
    async with AsyncExitStack() as stack:
        ledger = await asyncpg.connect(at["postgres"])
        stack.push_async_callback(ledger.close)
        store = await stack.enter_async_context(proxied(*address(at["s3"]["endpoint"]), free_ports(1)[0]))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        yield House(home, at, ledger, store, http)
        for neighbour in ("ml_engine", "inference"):
            await http.delete(f"{at[neighbour]}/_faults")
