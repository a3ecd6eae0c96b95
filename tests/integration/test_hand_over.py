"""What goes set-based on the hot path and what goes one by one comes to the same rows, entries and events; what is unusual is not taken."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from streams.ledger import handover
from tests.integration.ledger_moves import FIRST, Data, Moves

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120)]

EFFECT = {
    "key": "run:index:1", "command": "POST /api/v1/index/build", "status": 200, "request_sha256": "00ff", "reply_sha256": "ff00",
    "reply": {"a": None}, "sent_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
_OWN = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\d[T ][\d:.+]*")
_TABLES = {
    "inbox": "select to_jsonb(i) - 'event_key' from inbox i where tenant_id = $1",
    "causes": "select to_jsonb(c) from causes c join runs using (run_id) where tenant_id = $1",
    "steps": "select to_jsonb(s) - 'turn' from steps s where tenant_id = $1 order by stage",
    "runs": "select to_jsonb(r) from runs r where tenant_id = $1",
    "heads": "select to_jsonb(h) from pipeline_heads h where tenant_id = $1",
    "journal": "select to_jsonb(j) from journal j where tenant_id = $1 order by seq",
    "outbox": "select to_jsonb(o) - 'id' || jsonb_build_object('value', o.value::jsonb) from outbox o where tenant_id = $1 order by id",
    "effects": "select to_jsonb(e) - 'id' from effects e where tenant_id = $1",
}


class SetBased(Moves):
    """A worker whose outcomes go through `hand_over`."""

    async def hand_over(self, *items: Data) -> list[Any]:
        whole = [{"next": None, "next_worker": None} | item for item in items]
        return list(await self.raw.fetch(handover.SQL, *handover.columns(whole, self.tick())))

    async def commit(self, step: Data, outcome: str, **more: Any) -> Data:
        item = self.outcome(step, outcome, **more)
        if outcome != "done":
            return await super().commit(step, outcome, **more)
        [row] = await self.hand_over(item)
        answer = handover.answer(item | {"input_id": step["input_id"], "traceparent": step["traceparent"]}, row, self.now)
        assert ("begun" in answer) == (answer["result"] == "next")
        if "begun" in answer:
            sql = "select leased(s, r) from steps s join runs r using (run_id) where s.run_id = $1 and s.stage = $2"
            answer["step"] = await self.raw.fetchval(sql, step["run_id"], item["next"]["stage"])
            assert answer["begun"] == (answer["step"]["round"], answer["step"]["fence"])
        return answer


@pytest.fixture
async def moves(ledger_dsn: str) -> AsyncIterator[SetBased]:
    moves = await SetBased.open(ledger_dsn)
    assert isinstance(moves, SetBased)
    yield moves
    assert (await moves.check()).differences == []
    await moves.raw.close()


@pytest.fixture
async def by_one(moves: SetBased, ledger_dsn: str) -> AsyncIterator[Moves]:
    other = await Moves.open(ledger_dsn)
    other.worker = moves.worker
    yield other
    await other.raw.close()


async def all_of(moves: Moves, tenant: str) -> dict[str, list[Any]]:
    """Every row of a tenant, without what is its own: its name, ids and times."""
    return {table: [nameless(row[0], tenant) for row in await moves.raw.fetch(sql, tenant)] for table, sql in _TABLES.items()}


def nameless(value: Any, tenant: str) -> Any:
    return json.loads(_OWN.sub("*", json.dumps(value)).replace(tenant, "tenant"))


async def test_a_whole_run_is_the_same_in_every_row_both_ways(moves: SetBased, by_one: Moves) -> None:
    for one, tenant in ((moves, "acme"), (by_one, "globex")):
        answer = await one.request(tenant)
        while step := answer.get("step"):
            if step["stage"] == "train":
                await one.wait(step, f"job-{tenant}")
                answer = await one.complete(tenant, f"job-{tenant}")
            else:
                answer = await one.done(step, effects=[EFFECT])
        assert answer["result"] == "finished"
        assert [row["topic"] for row in answer["outbox"]] == ["warm.done", "run.finished"]
    assert await all_of(moves, "acme") == await all_of(by_one, "globex")


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("quota", [False, True])
@pytest.mark.parametrize("first", [FIRST, FIRST | {"limit": "ml_engine"}, FIRST | {"hold": 10}])
@pytest.mark.parametrize("how", [{}, {"worker": False, "publish": True}])
async def test_a_request_is_the_same_in_every_row_both_ways(moves: SetBased, how: Data, first: Data, quota: bool, pause: bool) -> None:
    answers = []
    for tenant, function in (("acme", "select * from receive($1, '[]', $2)"), ("globex", "select accept_request($1::jsonb -> 0, $2)")):
        settings = {"dispatch": {"concurrent": 3}} if quota else {}
        await moves.raw.execute("insert into tenants (tenant_id, settings) values ($1, $2)", tenant, settings)
        await moves.raw.execute("insert into tenant_heads (tenant_id) values ($1)", tenant)
        if pause:
            sql = "insert into pauses (tenant_id, pipeline, paused_by, reason, since) values ($1, 'training', 'me', 'test', now())"
            await moves.raw.execute(sql, tenant)
        item = moves.asked(tenant, **how) | {"first": first, "partition": 3, "offset": 17}
        answers.append(await moves.raw.fetchval(function, [item], moves.tick()))
        again = await moves.raw.fetchval(function, [item], moves.tick())
        assert (again["result"], again["fate"]) == ("seen", "run")
    assert bool(answers[0].get("step")) is (not how and not first["limit"] and not quota and not pause)
    for answer in answers:
        for row in answer["outbox"]:
            row |= {"id": 0, "created_at": None, "value": json.loads(row["value"])}
    assert nameless(answers[0], "acme") == nameless(answers[1], "globex")
    assert await all_of(moves, "acme") == await all_of(moves, "globex")


async def test_what_it_says_of_the_outbox_is_what_stands_there(moves: SetBased) -> None:
    answer = await moves.whole(upto="warm")
    for row in answer["outbox"]:
        stands = await moves.raw.fetchval("select to_jsonb(o) - '{created_at,worker}'::text[] from outbox o where id = $1", row["id"])
        assert json.loads(row.pop("value")) == json.loads(stands.pop("value"))
        assert row | {"at": None} == stands | {"at": None}


async def test_many_tenants_go_in_one_statement_and_each_has_its_own_numbers(moves: SetBased) -> None:
    steps = [(await moves.request(f"tenant-{number}"))["step"] for number in range(5)]
    items = [moves.outcome(step, "done", output={"n": n}, output_type="x", event_id=uuid4()) for n, step in enumerate(steps)]
    rows = await moves.hand_over(*items)
    assert sorted(row["n"] for row in rows) == [1, 2, 3, 4, 5]
    for n, item in enumerate(items):
        train = await moves.step(item["run_id"], "train")
        assert (train["input"], train["state"], train["worker"]) == ({"n": n}, "running", moves.worker)


@pytest.mark.parametrize(
    "sql",
    [
        "update steps set fence = fence + 1",
        "update steps set worker = gen_random_uuid() where worker is not null",
        "update steps set state = 'ready', worker = null where stage = 'index'",
        "update runs set state = 'cancelling'",
        "update pipeline_heads set paused = true",
        "update steps set limit_name = 'ml_engine' where stage = 'index'",
    ],
)
async def test_a_step_that_is_another_s_or_unusual_is_left_untouched(moves: SetBased, sql: str) -> None:
    step = (await moves.whole(upto="train"))["step"]
    item = moves.outcome(step, "done", output={}, output_type="x", event_id=uuid4())
    tables = ("steps", "runs", "journal", "outbox", "effects")
    begin = moves.raw.transaction()
    await begin.start()
    await moves.raw.execute(sql)
    before = {table: await moves.raw.fetch(f"select * from {table}") for table in tables}
    assert await moves.hand_over(item) == []
    assert before == {table: await moves.raw.fetch(f"select * from {table}") for table in tables}
    await begin.rollback()


async def test_an_end_with_a_follow_up_waiting_is_left_to_the_slow_way(moves: SetBased) -> None:
    step = (await moves.whole(upto="deploy"))["step"]
    await moves.request()
    item = moves.outcome(step, "done", output={}, output_type="x", event_id=uuid4())
    assert await moves.hand_over(item) == []
    assert (await Moves.commit(moves, step, "done", output={}, output_type="x", event_id=uuid4()))["result"] == "finished"
    assert [run["state"] for run in await moves.raw.fetch("select state from runs order by requested_at")] == ["succeeded", "running"]
