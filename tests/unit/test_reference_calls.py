"""What every neighbour does with a call: keys, journal, limits and faults, tried on the monitoring service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from reference.database import Database
from reference.journal import Journal, read
from reference.monitoring import build
from reference.settings import ReferenceSettings

ALERT = {"severity": "high", "title": "No data for 3 days", "message": "<b>look</b>", "tenant_id": "acme", "details": {"hours": 72}}


@asynccontextmanager
async def monitor(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this process, from start to stop."""
    gate = build(ReferenceSettings(data=folder, **settings))
    app: Any = gate._app._app._app  # type: ignore[attr-defined]  # past gate, faults and journal: ASGITransport runs no lifespan
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://127.0.0.1") as client:
        yield client


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def test_a_key_used_twice_is_one_effect_also_after_a_restart(tmp_path: Path) -> None:
    async with monitor(tmp_path) as client:
        first = await client.post("/api/v1/alerts", json=ALERT, headers=key("alert:1:opened"))
        again = await client.post("/api/v1/alerts", json=ALERT, headers=key("alert:1:opened"))
    async with monitor(tmp_path) as client:
        restarted = await client.post("/api/v1/alerts", json=dict(reversed(ALERT.items())), headers=key("alert:1:opened"))
        assert first.status_code == again.status_code == restarted.status_code == 201
        assert first.json() == again.json() == restarted.json()
        assert len((await client.get("/api/v1/alerts")).json()) == 1
        (row,) = (await client.get("/journal")).json()
    assert {name: row[name] for name in row if name != "at"} == {
        "idempotency_key": "alert:1:opened",
        "method": "POST",
        "path": "/api/v1/alerts",
        "tenant_id": "acme",
        "status": 201,
    }


async def test_without_a_key_every_call_is_a_new_one(tmp_path: Path) -> None:
    async with monitor(tmp_path) as client:
        first, second = [(await client.post("/api/v1/alerts", json=ALERT)).json()["alert_id"] for _ in range(2)]
        assert first != second
        assert len((await client.get("/journal?tenant=acme")).json()) == 2
        assert (await client.get("/journal?tenant=bolt")).json() == []


async def test_the_same_key_with_another_body_is_refused(tmp_path: Path) -> None:
    async with monitor(tmp_path) as client:
        await client.post("/api/v1/alerts", json=ALERT, headers=key("k"))
        other = await client.post("/api/v1/alerts", json=ALERT | {"title": "Other"}, headers=key("k"))
        assert (other.status_code, other.json()["code"]) == (422, "key_reused")


async def test_the_reservation_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_in_progress(tmp_path: Path) -> None:
    scope = {"method": "POST", "path": "/api/v1/alerts", "headers": [(b"idempotency-key", b"k")], "body": b"{}"}
    call = read(scope)
    database = Database(tmp_path / "x.sqlite")
    living = Journal(database)
    assert await living.begin(call) is None
    with pytest.raises(Exception, match="still being worked on"):
        await living.begin(call)
    successor = Journal(database)
    assert await successor.begin(call) is None
    assert read(scope).effect_id == call.effect_id
    assert await successor.list() == []
    database.close()


async def test_a_second_process_on_the_same_folder_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import reference.database as module

    database = Database(tmp_path / "x.sqlite")
    monkeypatch.setattr(module._only_one, "__defaults__", (0.0,))
    with pytest.raises(SystemExit, match="runs already"):
        Database(tmp_path / "x.sqlite")
    database.close()


async def test_bad_calls_are_refused_by_name(tmp_path: Path) -> None:
    async with monitor(tmp_path, max_body=500) as client:
        for reply, status, code in (
            (await client.post("/api/v1/alerts", json=ALERT | {"message": "x" * 600}), 413, "too_big"),
            (await client.post("/api/v1/alerts", content=b"{}", headers={"content-type": "text/plain"}), 415, "not_json"),
            (await client.post("/api/v1/alerts", content=b"{", headers={"content-type": "application/json"}), 422, "bad_request"),
            (await client.post("/api/v1/alerts", json=ALERT | {"tenant_id": "../x"}), 422, "bad_request"),
            (await client.post("/api/v1/alerts", json=ALERT, headers=key("k" * 201)), 400, "bad_key"),
            (await client.get("/healthz", headers={"host": "evil.example"}), 400, "foreign_host"),
            (await client.get("/nothing"), 404, "not_found"),
            (await client.post("/_faults", json={"mode": "hang"}), 403, "faults_off"),
        ):
            assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert (await client.get("/journal")).json() == []


async def test_alerts_are_shown_escaped(tmp_path: Path) -> None:
    async with monitor(tmp_path) as client:
        await client.post("/api/v1/alerts", json=ALERT | {"title": "<script>"})
        page = (await client.get("/")).text
        assert "&lt;script&gt;" in page
        assert "<script>" not in page


async def test_a_failed_call_is_not_accepted_and_may_be_repeated(tmp_path: Path) -> None:
    async with monitor(tmp_path, allow_faults=True) as client:
        await client.post("/_faults", json={"mode": "status", "status": 503, "times": 2, "retry_after": 9, "tenant": "acme"})
        other = await client.post("/api/v1/alerts", json=ALERT | {"tenant_id": "bolt"})
        replies = [await client.post("/api/v1/alerts", json=ALERT, headers=key("k")) for _ in range(3)]
        assert [other.status_code, *(reply.status_code for reply in replies)] == [201, 503, 503, 201]
        assert replies[0].headers["retry-after"] == "9"
        assert len((await client.get("/journal?tenant=acme")).json()) == 1
        assert (await client.get("/_faults")).json() == []


async def test_a_dropped_reply_leaves_one_effect_that_the_next_call_is_told_of(tmp_path: Path) -> None:
    async with monitor(tmp_path, allow_faults=True) as client:
        await client.post("/_faults", json={"mode": "drop_reply", "path": "/api/v1/alerts"})
        with pytest.raises(ConnectionResetError):
            await client.post("/api/v1/alerts", json=ALERT, headers=key("k"))
        reply = await client.post("/api/v1/alerts", json=ALERT, headers=key("k"))
        assert reply.headers["idempotency-replayed"] == "true"
        assert len((await client.get("/journal")).json()) == 1


async def test_hang_html_reset_and_drip_spoil_the_answer_as_told(tmp_path: Path) -> None:
    async with monitor(tmp_path, allow_faults=True) as client:
        await client.post("/_faults", json={"mode": "html"})
        assert (await client.get("/api/v1/alerts")).text.startswith("<html>")
        await client.post("/_faults", json={"mode": "reset"})
        with pytest.raises(ConnectionResetError):
            await client.get("/api/v1/alerts")
        await client.post("/_faults", json={"mode": "drip", "seconds": 0.001})
        assert (await client.get("/api/v1/alerts")).json() == []
        await client.post("/_faults", json={"mode": "hang", "times": None})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get("/api/v1/alerts"), 0.05)
        assert (await client.delete("/_faults")).json() == {"deleted": 1}
        assert (await client.get("/api/v1/alerts")).json() == []
