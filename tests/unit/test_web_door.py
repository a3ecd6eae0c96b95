"""Who gets through the web application's door, and what the probes say."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from streams.web import make_web
from streams.web.health import Health
from tests.unit.web_fakes import World

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def web(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_web(world.parts(), hosts=["tidemill.internal"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8080", 200), ("[::1]:8080", 200), ("tidemill.internal", 200), ("evil.example", 421), ("127.0.0.1.evil.example:8080", 421)],
)
async def test_only_known_hosts_are_answered(web: httpx.AsyncClient, host: str, status: int) -> None:
    assert (await web.get("/livez", headers={"Host": host})).status_code == status


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
async def test_a_form_of_another_site_cannot_start_a_run(world: World, web: httpx.AsyncClient, kind: str) -> None:
    answer = await web.post("/api/v1/tenants/acme/runs", content=b"{}", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"], world.ledger.asked) == (415, "json_only", [])


async def test_a_large_body_is_refused_whether_or_not_it_says_its_length(world: World, web: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    for body in (b" " * (1 << 21), endless()):
        answer = await web.post("/api/v1/tenants/acme/runs", content=body, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert world.ledger.asked == []


async def test_every_answer_forbids_what_is_not_ours(web: httpx.AsyncClient) -> None:
    for path in ("/", "/livez", "/nothing", "/static/tidemill.js"):
        policy = (await web.get(path)).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_readiness_is_red_with_the_reason_while_alive_stays_green(world: World, web: httpx.AsyncClient) -> None:
    world.sick = {"s3": "nobody answers at http://127.0.0.1:20333"}
    ready = await web.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "down")
    s3 = ready.json()["dependencies"]["s3"]
    assert (s3["status"], s3["reason"]) == ("down", "nobody answers at http://127.0.0.1:20333")
    assert all(each["latency_ms"] >= 0 for each in ready.json()["dependencies"].values())
    assert (await web.get("/livez")).status_code == 200


async def test_a_neighbours_outage_degrades_and_does_not_turn_readiness_red(world: World, web: httpx.AsyncClient) -> None:
    world.sick = {"inference": "away"}
    ready = await web.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")


async def test_many_probes_ask_the_dependencies_once() -> None:
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    health = Health({"kafka": count}, {})
    for _ in range(10):
        await health.readiness()
    assert asked == 1


async def test_a_password_is_never_part_of_a_reason() -> None:
    async def leak() -> None:
        raise RuntimeError("cannot connect with password hunter2\nand more")

    (finding,) = (await Health({"ledger": leak}, {}, secrets=["hunter2"]).readiness()).findings
    assert finding.reason == "cannot connect with password ***"
