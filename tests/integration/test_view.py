"""The view process on real servers: it shows what is on run.state, after a kill too, and an outage is a reason and not a closed port."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from streams.local.addresses import Addresses
from streams.local.ports import FIRST, LAST, is_free
from streams.settings import Settings, from_stack
from streams.setup import initialise

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(240)]


class View:
    """A view process of its own, as `tidemill up` runs it, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, web: httpx.AsyncClient) -> None:
        self.process, self.web = process, web

    async def get(self, path: str) -> httpx.Response:
        return await self.web.get(path)

    async def until(self, path: str, holds: Callable[[Any], bool], *, within: float = 90) -> Any:
        """The JSON at `path` once `holds` is true of it."""
        end = time.monotonic() + within
        seen: Any = None
        while time.monotonic() < end:
            try:
                seen = (await self.get(path)).json()
            except httpx.TransportError as error:
                seen = repr(error)
            else:
                if holds(seen):
                    return seen
            await asyncio.sleep(0.2)
        raise AssertionError(f"{path} stayed {seen}")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


def a_port() -> int:
    return next(port for port in range(FIRST + os.getpid() % 5000, LAST) if is_free(port))


@asynccontextmanager
async def a_view(environment: dict[str, str], port: int) -> AsyncIterator[View]:
    own = {"TIDEMILL_HOME": "/nonexistent", "TIDEMILL_WEB__PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.cli", "worker", "--role", "view", env={**os.environ, **environment, **own}
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as web:
            yield View(process, web)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 30)


@pytest.fixture
async def environment(platform: dict[str, Any], ledger_dsn: str) -> dict[str, str]:
    """The settings of a view with topics, buckets and a ledger of this test's own."""
    await initialise(Settings(**{**from_stack(platform), "ledger": {"dsn": ledger_dsn}}))
    return Addresses(**{**platform, "postgres": ledger_dsn}).environment() | {"TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "create"}


@pytest.fixture
async def producer(platform: dict[str, Any]) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=platform["kafka"], acks="all")
    await producer.start()
    yield producer
    await producer.stop()


async def put(producer: AIOKafkaProducer, tenant: str, version: int, **changes: Any) -> None:
    state = {"tenant_id": tenant, "run_id": str(uuid4()), "pipeline": "training", "state": "running", "stage": "train", "version": version, **changes}
    await producer.send_and_wait("run.state", json.dumps(state).encode(), key=tenant.encode())


def is_version(version: int) -> Callable[[Any], bool]:
    return lambda seen: seen["source"] == "table" and seen["pipelines"].get("training", {}).get("version") == version


async def test_an_older_state_never_overwrites_and_a_killed_view_knows_the_newer_one(environment: dict[str, str], producer: AIOKafkaProducer) -> None:
    port, path = a_port(), "/api/v1/tenants/acme/state"
    async with a_view(environment, port) as view:
        await put(producer, "acme", 5, stage="index")
        await producer.send_and_wait("run.state", b"\xffnot json", key=b"acme")
        await producer.send_and_wait("run.state", None, key=b"acme")
        await put(producer, "acme", 4, stage="validate")
        await put(producer, "acme", 9, pipeline="quality")
        seen = await view.until(path, lambda seen: is_version(5)(seen) and "quality" in seen["pipelines"])
        assert seen["pipelines"]["training"]["stage"] == "index"
        await view.kill()  # whether the offset is committed or not
    async with a_view(environment, port) as view:
        seen = await view.until(path, is_version(5))
        assert set(seen["pipelines"]) == {"training", "quality"}
        await put(producer, "acme", 6, state="succeeded")
        assert (await view.until(path, is_version(6)))["pipelines"]["training"]["state"] == "succeeded"


async def test_a_run_asked_for_over_http_is_listed_streamed_and_shown(environment: dict[str, str]) -> None:
    async with a_view(environment, a_port()) as view:
        await view.until("/livez", lambda seen: seen["status"] == "ok")
        asked = [await view.web.post("/api/v1/tenants/globex/runs", json={}, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
        assert [answer.status_code for answer in asked] == [202, 202]
        run_id = asked[0].json()["run_id"]
        assert asked[1].json()["run_id"] == run_id
        listed = (await view.get("/api/v1/runs?tenant=globex")).json()
        assert [run["run_id"] for run in listed] == [run_id]
        async with view.web.stream("GET", "/api/v1/tenants/globex/events?after=0") as stream:
            ids = []
            async for line in stream.aiter_lines():
                ids += [line] if line.startswith("id:") else []
                if len(ids) == 2:
                    break
        assert ids == ["id: 1", "id: 2"]
        assert run_id in (await view.web.get(f"/runs/{run_id}", headers={"Accept": "text/html"})).text
        assert (await view.web.post(f"/api/v1/runs/{run_id}/cancel", json={})).json()["result"] == "cancelled"
        assert (await view.web.post(f"/api/v1/runs/{run_id}/cancel", json={})).status_code == 409


async def test_while_kafka_and_the_ledger_are_away_alive_is_green_and_ready_is_red_with_reasons(environment: dict[str, str]) -> None:
    nobody = f"127.0.0.1:{a_port()}"
    away = {"TIDEMILL_KAFKA__BOOTSTRAP": nobody, "TIDEMILL_LEDGER__DSN": f"postgresql://tidemill:hunter2@{nobody}/tidemill"}
    async with a_view({**environment, **away}, a_port()) as view:
        await view.until("/livez", lambda seen: seen["status"] == "ok")
        ready = await view.get("/readyz")
        assert ready.status_code == 503
        assert {name for name, each in ready.json()["dependencies"].items() if each["status"] == "ok"} >= {"warehouse", "redis", "s3"}
        assert nobody in ready.json()["dependencies"]["kafka"]["reason"]
        assert nobody in ready.json()["dependencies"]["ledger"]["reason"]
        assert "hunter2" not in ready.text
        assert (await view.get("/api/v1/runs")).json()["code"] == "ledger_away"
        view.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(view.process.wait(), 20) == 0


async def test_missing_topics_and_a_taken_port_end_the_view_with_status_3(environment: dict[str, str]) -> None:
    async with a_view({**environment, "TIDEMILL_KAFKA__APP_ID": "another"}, a_port()) as view:
        assert await asyncio.wait_for(view.process.wait(), 60) == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with a_view(environment, taken.getsockname()[1]) as view:
            assert await asyncio.wait_for(view.process.wait(), 60) == 3
