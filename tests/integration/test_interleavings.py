"""Two sessions at once on real PostgreSQL, in both orders: whoever comes second waits, sees what the first did, and nothing is lost (DECISIONS 2).

Each case holds the first session's transaction open, starts the second's move, lets the first commit, and looks at what both came to.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.ledger_moves import Data, Moves
from tests.simulation.server import Server, running_server

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def dsn(server: Server) -> str:
    return server.ledger(f"between_{uuid4().hex[:8]}")


@pytest.fixture
async def one(dsn: str) -> AsyncIterator[Moves]:
    moves = await Moves.open(dsn)
    yield moves
    assert (await moves.check()).differences == []
    await moves.raw.close()


@pytest.fixture
async def two(one: Moves, dsn: str) -> AsyncIterator[Moves]:
    """A second session of the same worker."""
    moves = await Moves.open(dsn)
    moves.worker = one.worker
    yield moves
    await moves.raw.close()


async def between(first: Moves, move: Awaitable[Data], second: Awaitable[Any]) -> tuple[Data, Any]:
    """The first session's move, and the second's, begun before the first has committed."""
    transaction = first.raw.transaction()
    await transaction.start()
    answer = await move
    other = asyncio.ensure_future(second)
    await asyncio.wait({other}, timeout=0.2)
    await transaction.commit()
    return answer, await other


async def at(moves: Moves, stage: str, tenant: str = "acme") -> Data:
    """A run whose step of that stage is in hand."""
    answer = await moves.request(tenant)
    while answer["step"]["stage"] != stage:
        step = answer["step"]
        if step["stage"] == "train":
            await moves.wait(step, f"job-of-{tenant}")
            answer = await moves.complete(tenant, f"job-of-{tenant}")
        else:
            answer = await moves.done(step)
    return dict(answer["step"])


async def waiting(moves: Moves, job: str) -> Data:
    step = await at(moves, "train")
    await moves.wait(step, job)
    return step


async def runs(moves: Moves) -> list[Data]:
    return [dict(row) for row in await moves.raw.fetch("select * from runs order by requested_at")]


async def active(moves: Moves) -> tuple[UUID | None, UUID | None]:
    row = await moves.raw.fetchrow("select active_run, pending_run from pipeline_heads")
    assert row is not None
    return row["active_run"], row["pending_run"]


async def test_a_completion_that_comes_while_its_job_id_is_being_committed_wakes_the_run(one: Moves, two: Moves) -> None:
    step = await at(one, "train")
    waits, woken = await between(one, one.wait(step, "j"), two.complete("acme", "j"))
    assert (waits["result"], woken["fate"], woken["step"]["stage"]) == ("waiting", "matched", "index")


async def test_a_job_id_that_is_committed_while_its_completion_is_being_recorded_wakes_the_run(one: Moves, two: Moves) -> None:
    step = await at(one, "train")
    early, goes_on = await between(two, two.complete("acme", "j"), one.wait(step, "j"))
    assert (early["fate"], goes_on["step"]["stage"]) == ("early", "index")


async def test_a_failed_completion_and_the_commit_of_its_job_id_meet_in_both_orders(one: Moves, two: Moves) -> None:
    step = await at(one, "train")
    early, again = await between(two, two.complete("acme", "j", failed=True), one.wait(step, "j"))
    assert (early["fate"], again["step"]["stage"], again["step"]["output"] is not None) == ("early", "train", True)


async def test_the_true_completion_wakes_the_run_though_another_tenant_named_the_job_first(one: Moves, two: Moves) -> None:
    await two.request("other")
    step = await at(one, "train")
    await two.complete("other", "j")
    await two.complete("acme", "j")
    answer = await one.wait(step, "j")
    assert answer["step"]["stage"] == "index"
    assert answer["step"]["input"]["tenant_id"] == "acme"
    fates = {row["tenant_id"]: (row["fate"], row["code"]) for row in await one.raw.fetch("select * from inbox where topic = 'training.completed'")}
    assert fates == {"other": ("set_aside", "foreign_tenant"), "acme": ("early", None)}


async def test_another_tenants_completion_of_a_known_job_changes_nothing(one: Moves, two: Moves) -> None:
    await two.request("other")
    step = await waiting(one, "j")
    answer = await two.complete("other", "j")
    assert (answer["fate"], answer["code"]) == ("set_aside", "foreign_tenant")
    assert (await one.step(step["run_id"], "train"))["state"] == "waiting"
    assert (await two.complete("acme", "j"))["step"]["stage"] == "index"


async def test_a_request_that_comes_while_the_run_is_finishing_makes_a_run_of_its_own(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    finished, asked = await between(one, one.done(step), two.request())
    assert (finished["result"], asked["result"], asked["step"]["stage"]) == ("finished", "run", "validate")
    assert await active(one) == (UUID(asked["run_id"]), None)


async def test_a_run_that_finishes_while_a_request_is_being_recorded_starts_it(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    asked, finished = await between(two, two.request(), one.done(step))
    assert (asked["result"], finished["result"]) == ("pending", "finished")
    assert await active(one) == (UUID(asked["run_id"]), None)
    assert [run["state"] for run in await runs(one)] == ["succeeded", "running"]


async def test_a_merge_while_the_run_it_waits_for_is_finishing_belongs_to_one_run(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    follow_up = await one.request()
    _, asked = await between(one, one.done(step), two.request())
    assert asked["result"] == "pending", "the follow-up has started, so the request waits for it"
    assert await active(one) == (UUID(follow_up["run_id"]), UUID(asked["run_id"]))


async def test_a_run_that_finishes_while_a_merge_is_being_recorded_takes_it_along(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    follow_up = await one.request()
    asked, _ = await between(two, two.request(), one.done(step))
    assert (asked["result"], asked["run_id"]) == ("merged", follow_up["run_id"])
    assert [run["causes"] for run in await runs(one)] == [1, 2]
    assert await active(one) == (UUID(follow_up["run_id"]), None)


async def test_a_cancel_that_comes_first_wins_over_the_completion(one: Moves, two: Moves) -> None:
    step = await waiting(one, "j")
    cancel, completion = await between(one, one.cancel(step["run_id"]), two.complete("acme", "j"))
    assert (cancel["result"], completion["result"]) == ("cancelling", "finished")
    assert (await one.run(step["run_id"]))["state"] == "cancelled"


async def test_a_completion_that_comes_first_is_kept_when_the_run_is_then_cancelled(one: Moves, two: Moves) -> None:
    step = await waiting(one, "j")
    completion, cancel = await between(two, two.complete("acme", "j"), one.cancel(step["run_id"]))
    assert (completion["step"]["stage"], cancel["result"]) == ("index", "cancelling")
    assert (await one.step(step["run_id"], "train"))["state"] == "done"
    assert (await one.done(completion["step"]))["result"] == "finished"
    assert (await one.run(step["run_id"]))["state"] == "cancelled"


async def test_a_cancel_after_the_last_stage_was_committed_comes_too_late(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    finished, cancel = await between(one, one.done(step), two.cancel(step["run_id"]))
    assert (finished["result"], cancel["result"], cancel["code"]) == ("finished", "refused", "run_over")
    assert (await one.run(step["run_id"]))["state"] == "succeeded"


async def test_of_two_who_finish_one_step_one_is_lost(one: Moves, two: Moves) -> None:
    step = await at(one, "warm")
    first, second = await between(one, one.done(step), two.done(step))
    assert (first["result"], second["result"]) == ("finished", "lost")
    finished = await one.raw.fetchval("select count(*) from journal where kind = 'finished'")
    assert finished == 1


async def test_of_two_who_hand_over_one_step_one_is_lost(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    first, second = await between(one, one.done(step), two.done(step))
    assert (first["result"], second["result"]) == ("next", "lost")
    assert (await one.step(step["run_id"], "deploy"))["round"] == 1


async def test_the_commit_of_a_worker_whose_lease_is_being_taken_is_lost(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.raw.execute("update workers set lease_until = '-infinity'")

    async def reap() -> Data:
        return {"steps": await two.raw.fetchval("select reap($1)", two.tick())}

    reaped, late = await between(two, reap(), one.done(step))
    assert (reaped["steps"], late["result"]) == (1, "lost")
    assert (await one.step(step["run_id"], "index"))["state"] == "ready"


async def test_a_lease_is_not_taken_from_a_worker_that_is_just_committing(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.raw.execute("update workers set lease_until = '-infinity'")
    committed, reaped = await between(one, one.commit(step, "retry", after=5), two.raw.fetchval("select reap($1)", two.tick()))
    assert (committed["result"], reaped) == ("retry", 0)
    assert (await one.step(step["run_id"], "index"))["takeovers"] == 0


async def test_a_cancel_waits_for_a_claim_and_leaves_the_last_word_to_its_worker(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.commit(step, "released")

    async def claim() -> Data:
        [row] = await two.claim()
        return row

    claimed, cancel = await between(two, claim(), one.cancel(step["run_id"]))
    assert (claimed["stage"], cancel["result"]) == ("index", "cancelling")
    assert (await two.done(claimed))["result"] == "finished"
    assert (await one.run(step["run_id"]))["state"] == "cancelled"


async def test_a_claim_passes_over_a_step_that_is_being_cancelled(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.commit(step, "released")
    cancel, claimed = await between(one, one.cancel(step["run_id"]), two.claim())
    assert (cancel["result"], claimed) == ("cancelled", [])
    assert (await one.step(step["run_id"], "index"))["state"] == "cancelled"


async def test_a_completion_that_comes_while_the_watcher_reports_is_told_once(one: Moves, two: Moves) -> None:
    step = await waiting(one, "j")
    [looking] = await one.claim()
    found = {"output": {"tenant_id": "acme", "job_id": "j"}, "output_type": "training.completed", "event_id": uuid4(), "engine": "ml", "job_id": "j"}
    report, completion = await between(one, one.commit(looking, "done", **found), two.complete("acme", "j"))
    assert (report["result"], completion["fate"]) == ("next", "set_aside")
    assert (await one.step(step["run_id"], "index"))["round"] == 1


async def test_a_watcher_that_reports_while_the_completion_is_recorded_is_lost(one: Moves, two: Moves) -> None:
    step = await waiting(one, "j")
    [looking] = await one.claim()
    found = {"output": {"tenant_id": "acme", "job_id": "j"}, "output_type": "training.completed", "event_id": uuid4(), "engine": "ml", "job_id": "j"}
    completion, report = await between(two, two.complete("acme", "j"), one.commit(looking, "done", **found))
    assert (completion["fate"], report["result"]) == ("matched", "lost")
    assert (await one.step(step["run_id"], "index"))["round"] == 1


async def test_two_first_requests_of_a_new_tenant_make_one_run_and_one_follow_up(one: Moves, two: Moves) -> None:
    first, second = await between(one, one.request("newcomer"), two.request("newcomer"))
    assert (first["result"], second["result"]) == ("run", "pending")


async def test_a_retry_of_a_run_and_a_new_request_do_not_both_become_active(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.commit(step, "failed", final="failed", code="broken", error="it broke")
    reopened, asked = await between(one, one.reopen(step["run_id"], "index"), two.request())
    assert (reopened["result"], asked["result"]) == ("reopened", "pending")


async def test_a_new_request_that_comes_first_refuses_the_retry(one: Moves, two: Moves) -> None:
    step = await at(one, "index")
    await one.commit(step, "failed", final="failed", code="broken", error="it broke")
    asked, reopened = await between(two, two.request(), one.reopen(step["run_id"], "index"))
    assert (asked["result"], reopened["result"], reopened["code"]) == ("run", "refused", "tenant_busy")
