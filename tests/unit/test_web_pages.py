"""The status pages: they render with and without data, and nothing a tenant sends becomes markup."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from streams.ledger.rows import DeadLetter, Effect
from streams.web import make_web
from streams.web.templating import ago, seconds
from tests.unit.web_fakes import NOW, World, a_run, a_step

PAGES = ["/", "/runs", "/pipeline", "/dead", "/health"]


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def web(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_web(world.parts()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", headers={"Accept": "text/html"}) as client:
        yield client


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_without_data_says_what_to_do(web: httpx.AsyncClient, path: str) -> None:
    answer = await web.get(path)
    assert answer.status_code == 200
    if path in ("/", "/runs", "/pipeline"):
        assert "No runs yet: <code>tidemill trigger acme</code>" in answer.text


async def test_the_overview_shows_where_each_tenants_latest_run_is(world: World, web: httpx.AsyncClient) -> None:
    world.reader.all_runs = [a_run(stage="index")]
    text = (await web.get("/")).text
    assert all(word in text for word in ("acme", "v3", "running", "index"))


async def test_a_run_shows_its_stages_its_causes_and_its_effects(world: World, web: httpx.AsyncClient) -> None:
    run = a_run()
    waiting = a_step(stage="train", state="waiting", waiting_at=NOW, finished_at=None, job_id="job-1", round=2)
    world.reader.all_runs, world.reader.steps = [run], [a_step(), waiting]
    world.reader.effects = [Effect(f"{run.run_id}:train:2", "train", 2, "POST /api/v1/train", 202, NOW, NOW)]
    text = (await web.get(f"/runs/{run.run_id}")).text
    assert all(word in text for word in ("waiting", "not reached", "job-1", "round 2", f"{run.run_id}:train:2", "202", "in: training.requested"))
    assert "Cancel" in text
    assert "<b>why</b>" not in text


async def test_a_finished_run_offers_a_retry_and_no_cancel(world: World, web: httpx.AsyncClient) -> None:
    run = a_run(state="failed", finished_at=NOW, code="no_data", reason="<script>alert(1)</script>")
    world.reader.all_runs = [run]
    for path in (f"/runs/{run.run_id}", "/runs", "/tenants/acme"):
        text = (await web.get(path)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
    assert f"/api/v1/runs/{run.run_id}/retry" in (await web.get(f"/runs/{run.run_id}")).text
    assert "/cancel" not in (await web.get(f"/runs/{run.run_id}")).text


async def test_the_form_for_a_run_has_the_knobs_of_the_event(world: World, web: httpx.AsyncClient) -> None:
    world.reader.all_runs = [a_run()]
    text = (await web.get("/tenants/acme")).text
    assert 'name="config.epochs" placeholder="10" min="1" max="1000"' in text


async def test_the_pipeline_page_tells_what_each_stage_does(web: httpx.AsyncClient) -> None:
    text = (await web.get("/pipeline")).text
    assert all(word in text for word in ("validate", "Make sure that the tenant", "training.validated", "train (watch)"))


async def test_a_dead_letter_is_shown_with_its_reason(world: World, web: httpx.AsyncClient) -> None:
    world.reader.letters = [DeadLetter(uuid4(), NOW, "training.requested", 3, 17, None, "bad_tenant", "not a tenant <id>", "open", 12, None)]
    text = (await web.get("/dead")).text
    assert all(word in text for word in ("bad_tenant", "not a tenant &lt;id&gt;", "training.requested [3:17]"))


async def test_the_health_page_renders_while_the_ledger_is_away(world: World, web: httpx.AsyncClient) -> None:
    world.sick, world.reader.away = {"ledger": "nobody answers"}, ConnectionRefusedError()
    answer = await web.get("/health")
    assert answer.status_code == 200
    assert "nobody answers" in answer.text


async def test_an_outage_is_a_page_for_browsers_and_json_for_programs(world: World, web: httpx.AsyncClient) -> None:
    world.reader.away = ConnectionRefusedError()
    page = await web.get("/")
    assert (page.status_code, "text/html" in page.headers["content-type"]) == (503, True)
    assert (await web.get("/", headers={"Accept": "application/json"})).json()["code"] == "ledger_away"


async def test_a_filter_that_cannot_match_is_an_empty_list_not_an_error(web: httpx.AsyncClient) -> None:
    answer = await web.get("/runs", params={"state": "running", "tenant": "NOT a tenant"})
    assert (answer.status_code, "No run fits" in answer.text) == (200, True)


@pytest.mark.parametrize("path", PAGES)
async def test_no_page_needs_anything_from_elsewhere(web: httpx.AsyncClient, path: str) -> None:
    text = (await web.get(path)).text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    assert " style=" not in text


def test_durations_are_said_in_two_units_at_most() -> None:
    assert [seconds(value) for value in (None, 0.25, 2.0, 2.34, 61.0, 7200.0, 90_000.0)] == [
        "–",
        "250 ms",
        "2 s",
        "2.3 s",
        "1 min 1 s",
        "2 h",
        "1 d 1 h",
    ]
    assert ago(NOW, NOW + timedelta(seconds=90)) == "1 min 30 s ago"
    assert ago(NOW + timedelta(minutes=5), NOW) == "in 5 min"
