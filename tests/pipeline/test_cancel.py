"""A cancel that meets what a try may have left behind: a job that nobody knows of, half a deploy; and a retry that comes too late."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from streams.requests import cancel_run, retry_run
from streams.stage import GiveUp, TryAgain
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

UNSURE = TryAgain("the answer got lost", code="engine_broke_off")


@pytest.fixture(params=[True, False], ids=["eager", "through-kafka"])
async def travel(ledger_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (TOY,), Neighbours(), eager=request.param)) as travel:
        yield travel


async def cancel(travel: Travel) -> dict[str, Any]:
    [run] = await travel.runs()
    return await cancel_run(travel.ledger, travel.runtime.pipelines, run["run_id"], by="ann")


async def failed_once(travel: Travel, stage: str) -> None:
    """A run whose step waits for its next try."""
    travel.services.finding = {"status": "completed", "model_path": "models/acme/x"}
    travel.request()
    if stage == "deploy":
        await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'")
        await travel.minutes_pass()
    await travel.see("select 1 from steps where stage = $1 and state = 'ready' and attempt = 2", stage)


async def test_a_job_that_a_lost_answer_hid_is_found_by_its_key_and_asked_to_cancel(travel: Travel) -> None:
    travel.services.fail["train"] = [UNSURE]
    await failed_once(travel, "train")
    assert (await cancel(travel))["result"] == "cancelling"
    [run] = await travel.over()
    [sent, again] = [key for name, key in travel.services.calls if name == "train"]
    assert (run["state"], sent == again, travel.services.cancelled) == ("cancelled", True, [f"job-{sent}"])


async def test_an_engine_that_is_still_away_does_not_keep_a_cancelled_run_open(travel: Travel) -> None:
    travel.services.fail["train"] = [UNSURE, UNSURE]
    await failed_once(travel, "train")
    await cancel(travel)
    [run] = await travel.until(lambda runs: runs[0]["finished_at"] is not None and runs)
    assert (run["state"], len([name for name, _ in travel.services.calls if name == "train"])) == ("cancelled", 2)


async def test_a_deploy_that_was_begun_is_settled_before_a_cancelled_run_ends(travel: Travel) -> None:
    travel.services.fail["deploy"] = [UNSURE, UNSURE]
    await failed_once(travel, "deploy")
    assert (await cancel(travel))["result"] == "cancelling"
    await travel.see("select 1 from steps where stage = 'deploy' and state = 'ready' and attempt = 3")
    travel.clock.ahead += timedelta(minutes=6)
    [run] = await travel.over()
    names = [name for name, _ in travel.services.calls]
    assert (run["state"], names.count("deploy"), names.count("warm")) == ("cancelled", 3, 0)


async def test_a_stage_that_leaves_nothing_behind_is_not_begun_again(travel: Travel) -> None:
    travel.services.fail["validate"] = [UNSURE]
    await failed_once(travel, "validate")
    assert (await cancel(travel))["result"] == "cancelled"
    [run] = await travel.runs()
    assert (run["state"], len(travel.services.calls)) == ("cancelled", 1)


async def test_a_job_started_for_a_run_that_ended_meanwhile_is_asked_to_cancel(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with travelling(Travel(ledger_dsn, (TOY,), Neighbours()), folds=False) as travel:
        commit = travel.ledger.commit

        async def too_late(item: dict[str, Any]) -> dict[str, Any]:
            if item["outcome"] == "waiting" and "job_id" in item:
                await travel.rows("update steps set worker = null, fence = fence + 1, state = 'cancelled' where stage = 'train' returning 1")
                await travel.rows("update runs set state = 'cancelled', finished_at = now() returning 1")
            return await commit(item)

        monkeypatch.setattr(travel.ledger, "commit", too_late)
        travel.request()
        await travel.until(lambda _: travel.services.cancelled)
        assert travel.services.cancelled == [f"job-{key}" for name, key in travel.services.calls if name == "train"]


async def test_what_is_older_than_a_later_success_is_retried_from_its_beginning_alone(travel: Travel) -> None:
    travel.services.fail["deploy"] = [GiveUp("the service refused it", code="inference_refused")]
    travel.services.finding = {"status": "completed", "model_path": "models/acme/x"}
    travel.request()
    [old] = await travel.wait_out()
    travel.request()
    runs = await travel.wait_out(2)
    assert {run["state"] for run in runs} == {"failed", "succeeded"}
    refused = await retry_run(travel.ledger, travel.runtime.pipelines, old["run_id"], by="ann")
    newer = next(run["run_id"] for run in runs if run["state"] == "succeeded")
    assert (refused["code"], refused["newer"], "--from validate` begins it anew" in refused["sentence"]) == ("run_outdated", str(newer), True)
    assert (await retry_run(travel.ledger, travel.runtime.pipelines, old["run_id"], stage="validate", by="ann"))["result"] == "reopened"
    await travel.wait_out(2)
