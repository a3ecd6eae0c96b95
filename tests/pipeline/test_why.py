"""`tidemill why`: each thing that a run can wait for, said in one sentence with numbers."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from streams.ledger.connection import Connection
from streams.ledger.reader import Reader
from streams.pauses import pause
from streams.stage import GiveUp, TryAgain
from streams.tenants import change_tenant
from streams.why import Reason, reason
from tests.pipeline.test_batches import add
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    made = Travel(ledger_dsn, (TOY,), Neighbours())
    made.runtime.pipelines.limits["ml_engine"] = 1
    async with travelling(made) as travel:
        await add(travel, "acme", "globex")
        yield travel


async def ask(travel: Travel, tenant: str = "acme", limits: dict[str, int] | None = None) -> Reason:
    connection = Connection(travel.dsn)
    try:
        run = [run for run in await travel.runs() if run["tenant_id"] == tenant][-1]
        return reason(await Reader(connection).why(run["run_id"]), travel.runtime.pipelines.limits if limits is None else limits)
    finally:
        await connection.close()


async def test_a_job_its_deadline_and_the_run_that_follows(travel: Travel) -> None:
    travel.request("acme")
    await travel.see("select 1 from steps where state = 'waiting'")
    said = await ask(travel)
    assert said.waits_for == "job"
    assert said.sentence.startswith("waits for job job-")
    assert "5 h 59 min" in said.sentence or "6 h 0 min" in said.sentence
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 2)
    assert (await ask(travel)).waits_for == "active_run"


async def test_a_limit_with_its_holders(travel: Travel) -> None:
    travel.request("globex")
    await travel.see("select 1 from steps where state = 'waiting'")
    travel.request("acme")
    await travel.see("select 1 from steps where tenant_id = 'acme' and stage = 'train'")
    assert await ask(travel) == Reason("limit", "waits at train for one of the 1 places of ml_engine, all held (globex); 0 steps go before it")


async def test_a_retry_and_when(travel: Travel) -> None:
    travel.services.fail["validate"] = [TryAgain("the store stutters", code="s3_slow")]
    travel.request("acme")
    await travel.see("select 1 from steps where attempt = 2")
    said = await ask(travel)
    assert said.waits_for == "retry"
    assert said.sentence.startswith("waits for attempt 2 of validate after s3_slow, due in ")


async def test_a_neighbour_that_is_away(travel: Travel) -> None:
    travel.services.fail["validate"] = [TryAgain("no", code="s3_away", free=True, waiting_for="s3", after=timedelta(minutes=2))]
    travel.request("acme")
    await travel.see("select 1 from steps where waiting_for = 's3'")
    assert (await ask(travel)).sentence.startswith("waits at validate for s3 (s3_away); tried again in ")


async def test_a_pause_and_what_ends_it(travel: Travel) -> None:
    await pause(travel.ledger, travel.runtime.pipelines, pipeline="training", tenant_id=None, reason="upgrade", by="ann")
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 1)
    said = await ask(travel)
    assert said.waits_for == "pause"
    assert said.sentence.endswith("by ann (upgrade); `tidemill resume --pipeline training`")


async def test_a_quota_with_its_numbers(travel: Travel) -> None:
    travel.services.fail["validate"] = [GiveUp("no", code="no_data")] * 2
    await change_tenant(travel.ledger, "acme", name=None, owner=None, labels={}, settings={"dispatch.per_hour": 1}, by="ann")
    travel.request("acme")
    await travel.over(1)
    travel.request("acme", reason="again")
    await travel.until(lambda runs: len(runs) == 2)
    said = await ask(travel)
    assert said.waits_for == "quota"
    begun, _, next_one = said.sentence.partition("; ")
    assert begun == "waits at validate: the tenant began 1 of the 1 runs that its quota allows within an hour (per_hour)"
    assert re.fullmatch(r"the next may begin in (59 min|1 h).*", next_one)
    travel.clock.ahead = timedelta(hours=1, minutes=1)
    await travel.over(2)


async def test_a_quota_of_runs_begun_is_nothing_that_a_run_which_has_begun_waits_for(travel: Travel) -> None:
    travel.request("globex")
    await travel.see("select 1 from steps where state = 'waiting'")
    await change_tenant(travel.ledger, "acme", name=None, owner=None, labels={}, settings={"dispatch.per_hour": 1, "dispatch.burst": 1}, by="ann")
    travel.request("acme")
    await travel.see("select 1 from steps where tenant_id = 'acme' and stage = 'train'")
    said = await ask(travel, limits={})
    assert said.waits_for == "turn"
    assert said.sentence.startswith("is ready for train since")


async def test_the_end_of_a_run(travel: Travel) -> None:
    travel.services.fail["validate"] = [GiveUp("there is no data", code="no_data")]
    travel.request("acme")
    await travel.over(1)
    said = await ask(travel)
    assert said.waits_for == "nothing"
    assert said.sentence.endswith("failed: no_data: there is no data")
