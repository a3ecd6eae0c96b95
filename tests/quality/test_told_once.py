"""Ten bad ticks are one alert and one resolve in the monitor's own journal, whoever dies while telling it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import FakeMonitoring
from tests.quality.data import a_tenant, load, spoil
from tests.quality.world import World, open_world

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings
ROOT = Path(__file__).parents[2]
AROUND = ("command.sending", "command.sent", "command.answered")
"""Before the monitor has it, before its answer, and before the ledger knows of the answer."""

AGEING = (
    "update user_interactions set timestamp = timestamp + interval '6 hours', created_at = created_at + interval '6 hours'",
    "update items set created_at = created_at + interval '6 hours'",
    "update model_training_runs set completed_at = completed_at + interval '6 hours'",
)
"""Keeps everything as fresh as it was, six hours later."""


@asynccontextmanager
async def monitor(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The monitoring service as a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"REFERENCE_PORT": str(port), "REFERENCE_DATA": str(folder)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "reference.monitoring", env=os.environ | own, cwd=ROOT)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/healthz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def tell(world: Any, client: httpx.AsyncClient, *die_at: str) -> int:
    """A process that delivers what is due; its exit status."""
    now = (world.clock.now() + timedelta(hours=1)).isoformat()
    argv = ["-m", "tests.quality.teller", world.dsn, str(client.base_url), now, *die_at]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT)
    return await process.wait()


async def told_in_spite_of_deaths(world: Any, client: httpx.AsyncClient) -> None:
    """One process after the other is killed around the alert, at every point; the last one lives."""
    for point in AROUND:
        assert await tell(world, client, point) == -signal.SIGKILL
    assert await tell(world, client) == 0


async def test_ten_bad_ticks_are_one_alert_and_one_resolve_in_the_monitors_journal_over_kills(ledger_dsn, warehouse_dsn, tables, tmp_path):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    async with monitor(tmp_path) as client, open_world(World(ledger_dsn, warehouse_dsn, FakeMonitoring())) as world:
        for tick in range(10):
            await world.tick("dirty")
            if tick == 0:
                await told_in_spite_of_deaths(world, client)
            for change in AGEING:
                await tables.execute(change)
            world.later(6)
        assert await tell(world, client) == 0  # nothing new to be told
        await tables.execute("delete from user_interactions where interaction_type = 'teleport'")
        await world.tick("dirty")
        await told_in_spite_of_deaths(world, client)
        journal = (await client.get("/journal")).json()
        alerts = (await client.get("/api/v1/alerts", params={"tenant": "dirty"})).json()
        assert [(alert["details"]["check"], alert["details"]["kind"]) for alert in reversed(alerts)] == [
            ("user_interactions.types", "opened"),
            ("user_interactions.types", "resolved"),
        ]
        keys = [call["idempotency_key"] for call in journal if call["path"] == "/api/v1/alerts" and call["method"] == "POST"]
        assert len(keys) == len(set(keys)) == 2, journal
        assert await world.rows("select 1 from incident_transitions where delivered_at is null") == []
        assert len(await world.reader.history("dirty")) == 11
        for topic, count in {"dq.evaluated": 11, "dq.decided": 11, "alert.raised": 1, "alert.resolved": 1}.items():
            await world.until(lambda _, topic=topic, count=count: len(world.road.events(topic)) == count, within=30)
