"""When nothing new may be asked for, whatever is due waits and is lost to nobody: a ledger that was set back, an outbox above its limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from streams.arrivals import Listing
from streams.cli.frame import Door
from streams.cli.refusal import CliError
from streams.cli.trigger import _ask, _ask_all
from streams.everyone import carry_on, request_all
from streams.hold import Gate, hold
from streams.ledger.connection import Connection
from streams.ledger.reader import Reader
from streams.stage import GiveUp
from tests.pipeline.test_arrivals import SEEN, Folders
from tests.pipeline.test_backfill import Batch
from tests.pipeline.test_batches import add
from tests.pipeline.test_schedules import schedule
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

LOOKS = 1.3
"""Seconds in which timers and expansions look at what is due more than once."""
TENANTS = ["acme", "globex", "initech"]


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    use = Neighbours(fail={"validate": [GiveUp("short runs will do", code="no_data") for _ in range(1000)]})
    async with travelling(Travel(ledger_dsn, (TOY,), use, outbox_max=3)) as travel:
        await add(travel, *TENANTS)
        yield travel


@pytest.fixture
async def reader(ledger_dsn: str) -> AsyncIterator[Reader]:
    connection = Connection(ledger_dsn)
    yield Reader(connection)
    await connection.close()


@asynccontextmanager
async def set_back(travel: Travel) -> AsyncIterator[None]:
    """Another worker finds that the ledger was set back; at the end it is adopted."""
    await travel.rows("insert into reconciling (reason) values ('set back') returning 1")
    yield
    await travel.rows("delete from reconciling returning 1")


@asynccontextmanager
async def outbox_full(travel: Travel) -> AsyncIterator[None]:
    """Kafka is away, and more events wait for it than may."""
    travel.road.down = True
    travel.request("first")
    travel.request("second")
    await travel.until(lambda runs: len(runs) == 2 and all(run["finished_at"] for run in runs))
    yield
    travel.road.down = False


async def slots(travel: Travel) -> list[str]:
    return [row["state"] for row in await travel.rows("select state from slots order by tenant_id, due")]


async def a_due_slot(travel: Travel) -> None:
    """A slot that a schedule made a moment ago."""
    await schedule(travel, next_due=None)
    await travel.rows(
        "insert into slots (schedule_id, tenant_id, due, fire_at) select schedule_id, 'acme', $1, $1 from schedules returning 1", travel.clock.now()
    )


async def expansion(travel: Travel) -> None:
    """A request for every tenant that was accepted before."""
    await travel.rows(
        "insert into expansions (event_key, event_id, pipeline, data, source, chosen, publish, at) "
        "values (gen_random_uuid(), gen_random_uuid(), 'training', '{}', 'request', '{}', true, now()) returning 1"
    )


async def test_due_slots_wait_until_the_ledger_is_adopted(travel: Travel) -> None:
    with capture_logs() as logs:
        async with set_back(travel):
            await a_due_slot(travel)
            await asyncio.sleep(LOOKS)
            assert await slots(travel) == ["due"]
        await travel.over(1)
    assert await slots(travel) == ["fired"]
    assert [each["code"] for each in logs if each["event"] == "schedules hold"] == ["reconciling"]


async def test_due_schedules_wait_too_and_then_ask_by_their_policy(travel: Travel) -> None:
    async with set_back(travel):
        await schedule(travel)
        await asyncio.sleep(LOOKS)
        assert await slots(travel) == []
    await travel.over(3)
    assert await slots(travel) == ["fired"] * 3


async def test_a_slot_stays_due_when_the_ledger_is_set_back_after_the_look(travel: Travel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "shut", _open)
    async with set_back(travel):
        await a_due_slot(travel)
        await asyncio.sleep(0.3)
        assert await slots(travel) == ["due"]
    await travel.over(1)


async def test_a_request_for_many_goes_on_where_it_was_once_the_ledger_is_adopted(travel: Travel) -> None:
    async with set_back(travel):
        await expansion(travel)
        await asyncio.sleep(LOOKS)
        assert await travel.rows("select after, tenants from expansions") == [{"after": "", "tenants": 0}]
    await travel.over(3)
    assert await travel.see("select tenants from expansions where done_at is not null") == [{"tenants": 3}]


async def test_no_chunk_is_passed_over_when_the_ledger_is_set_back_after_the_look(travel: Travel) -> None:
    async with set_back(travel):
        await expansion(travel)
        [row] = await travel.rows("select event_key from expansions")
        answers = await travel.ledger.expand(row["event_key"], "", "acme", [], done=False)
        assert answers == []
        assert await travel.rows("select after, tenants from expansions") == [{"after": "", "tenants": 0}]
    await travel.over(3)


async def test_slots_of_a_backfill_wait_until_the_ledger_is_adopted(travel: Travel, reader: Reader) -> None:
    await schedule(travel, next_due=None)
    batch = Batch(travel, reader)
    async with set_back(travel):
        await batch.start(days=1)
        await asyncio.sleep(LOOKS)
        assert set(await slots(travel)) <= {"planned", "due"}
    done = await batch.done()
    assert (done.slots, done.skipped) == (3, 0)


async def test_above_the_outbox_limit_schedules_hold_and_say_so_once(travel: Travel) -> None:
    with capture_logs() as logs:
        async with outbox_full(travel):
            await a_due_slot(travel)
            await expansion(travel)
            await asyncio.sleep(2 * LOOKS)
            assert await slots(travel) == ["due"]
            assert await travel.rows("select tenants from expansions") == [{"tenants": 0}]
        await travel.over(5)
    assert await slots(travel) == ["fired"]
    said = [each for each in logs if each["event"].endswith(" hold")]
    assert sorted((each["event"], each["code"]) for each in said) == [
        ("requests for many tenants hold", "outbox_full"),
        ("schedules hold", "outbox_full"),
    ]


async def test_above_the_outbox_limit_arrivals_ask_for_nothing_and_why_says_so(travel: Travel, ledger_dsn: str) -> None:
    connection = Connection(ledger_dsn)
    folders = Folders(travel, connection)
    await folders.tenant("umbrella", train=True)
    folders.files = {"umbrella": Listing(SEEN, {"a": 1 << 21})}
    await folders.look()
    async with outbox_full(travel):
        assert await folders.look(minutes=5) == {"umbrella": "refused"}
        arrival = (await Reader(connection).why_tenant("umbrella"))["arrivals"]
        assert arrival["reason"].startswith("outbox_full: more than 3 events wait")
    await travel.published()
    assert await folders.look(minutes=5) == {"umbrella": "asked"}
    await travel.over(3)
    await connection.close()


async def test_above_the_outbox_limit_the_command_line_is_refused_as_the_api_is(travel: Travel, reader: Reader) -> None:
    door = Door(travel.ledger, travel.runtime.pipelines, reader)
    async with outbox_full(travel):
        with pytest.raises(CliError, match=r"^outbox_full: more than 3 events wait"):
            await _ask(door, "acme", False, None, None, None, "training")
        with pytest.raises(CliError, match=r"^outbox_full: "):
            await _ask_all(door, [], False, None, None, None, "training")
    await travel.published()
    await _ask(door, "acme", False, None, None, None, "training")
    await travel.over(3)


async def test_whoever_carries_a_request_for_many_on_waits_as_the_workers_do(travel: Travel) -> None:
    answer = await request_all(travel.ledger, travel.runtime.pipelines)
    async with set_back(travel):
        carrying = asyncio.create_task(carry_on(travel.ledger, travel.runtime.pipelines, answer["expansion"]))
        await asyncio.sleep(0.3)
    await carrying
    await travel.over(3)


async def test_few_rows_far_apart_are_no_full_outbox(travel: Travel, reader: Reader) -> None:
    travel.road.down = True
    travel.request("first")
    await travel.over(1)
    waiting = len(await travel.rows("select 1 from outbox"))
    assert waiting > 1
    await travel.rows("select setval('outbox_id_seq', 1000)")
    travel.request("second")
    await travel.over(2)
    waiting = len(await travel.rows("select 1 from outbox"))
    assert await reader.hold(waiting) is None
    assert await hold(travel.ledger.calls.fetch, waiting - 1) == await reader.hold(waiting - 1)
    assert (await reader.hold(waiting - 1)).code == "outbox_full"  # type: ignore[union-attr]
    travel.road.down = False
    await travel.published()


async def _open(*_: object) -> bool:
    return False
