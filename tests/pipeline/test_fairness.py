"""Who comes next: ready work of many tenants in the order of weights, classes and quotas, on a real ledger."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from streams.clock import Clock
from streams.ledger.connection import Connection

_TENANT = "insert into tenants (tenant_id, settings) values ($1, $2)"
_RUNS = """
insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, request, request_id, causes, version, requested_at)
select id, $1, 'training', '1', 'running', '{}', id, 1, 1, $2 from unnest($3::uuid[]) id
"""
_STEPS = """
insert into steps (run_id, stage, tenant_id, pipeline, state, round, due_at, input, input_type, input_id, ready_at, limit_name)
select id, 'validate', $1, 'training', 'ready', 1, $2, '{}', 'training.requested', id, $2, $4 from unnest($3::uuid[]) id
"""
_CLAIM = "select claim_steps($1, $2, '{}', null, $3, $4, $5, $6)"
_READ = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relid = 'steps'::regclass"
_END = "update steps set state = 'done', worker = null where worker = $1 returning run_id"
_OVER = "update runs set state = 'succeeded', finished_at = $2 where run_id = any($1)"
_ACTIVE = "insert into pipeline_heads (tenant_id, pipeline, active_run, paused) values ($1, $2, $3, false)"
_BEGUN = "update steps set stage = 'index', input_id = gen_random_uuid() where run_id = $1"
_CANCEL = """
with cancelled as (update steps set state = 'cancelled' where tenant_id = $1 and state = 'ready' returning run_id)
update runs set state = 'cancelled', finished_at = $2 from cancelled where runs.run_id = cancelled.run_id
"""


class Queue:
    """Ready steps without the runs' machinery: what the dispatcher sees."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.clock, self.worker = connection, Clock(), uuid4()

    async def tenant(self, name: str, **dispatch: Any) -> None:
        await self.connection.fetch(_TENANT, name, {"dispatch": dispatch} if dispatch else {})
        await self.connection.fetch("insert into tenant_heads (tenant_id) values ($1)", name)

    async def ready(self, tenant: str, count: int, limit: str | None = None) -> None:
        ids = [uuid4() for _ in range(count)]
        now = self.clock.now() - timedelta(seconds=1)
        await self.connection.fetch(_RUNS, tenant, now, ids)
        await self.connection.fetch(_STEPS, tenant, now, ids, limit)

    async def active(self, tenant: str, pipeline: str, limit: str | None = None, *, begun: bool = False) -> None:
        """The one run of a pipeline that is active, as the runs' machinery has it: at its first step, or at a later one."""
        now, run = self.clock.now() - timedelta(seconds=1), uuid4()
        await self.connection.fetch(_RUNS, tenant, now, [run])
        await self.connection.fetch(_ACTIVE, tenant, pipeline, run)
        await self.connection.fetch(_STEPS, tenant, now, [run], limit)
        if begun:
            await self.connection.fetch(_BEGUN, run)

    async def claim(
        self,
        room: int,
        *,
        end: bool = True,
        ahead: timedelta = timedelta(0),
        limits: dict[str, int] | None = None,
        more: int | None = None,
        busy: Sequence[str] = (),
    ) -> list[str]:
        """Whose steps come next; they end at once unless told otherwise."""
        given = self.worker, room, limits or {}, self.clock.now() + ahead, more, list(busy)
        rows = await self.connection.fetch(_CLAIM, *given)
        if end:
            ended = await self.connection.fetch(_END, self.worker)
            await self.connection.fetch(_OVER, [row["run_id"] for row in ended], self.clock.now() + ahead)
            await self.connection.fetch("delete from limit_slots")
        return [row[0]["tenant_id"] for row in rows]


@pytest.fixture
async def queue(ledger_dsn: str) -> AsyncIterator[Queue]:
    connection = Connection(ledger_dsn)
    yield Queue(connection)
    await connection.close()


async def test_over_a_thousand_dispatches_tenants_share_by_weight(queue: Queue) -> None:
    weights = {"one": 1, "two": 2, "five": 5}
    for name, weight in weights.items():
        await queue.tenant(name, weight=weight)
        await queue.ready(name, 1000)
    seen: Counter[str] = Counter()
    for _ in range(50):
        seen.update(await queue.claim(20))
    assert sum(seen.values()) == 1000
    for name, weight in weights.items():
        assert seen[name] == pytest.approx(1000 * weight / 8, rel=0.05)


async def test_a_tenant_that_asks_one_thing_at_a_time_gets_no_more_than_its_share_and_no_less(queue: Queue) -> None:
    await queue.tenant("crowd")
    await queue.tenant("single")
    await queue.ready("crowd", 300)
    seen: Counter[str] = Counter()
    for _ in range(100):
        if not seen or seen["single"] * 2 <= sum(seen.values()) + 2:
            await queue.ready("single", 1)
        seen.update(await queue.claim(1))
    assert 40 <= seen["single"] <= 60


async def test_ten_thousand_steps_of_one_tenant_delay_nobody_else(queue: Queue) -> None:
    await queue.tenant("noisy")
    await queue.ready("noisy", 10_000)
    await queue.claim(64)
    others = {f"quiet-{n}" for n in range(99)}
    for name in sorted(others):
        await queue.tenant(name)
        await queue.ready(name, 1)
    first = [*await queue.claim(64), *await queue.claim(64)]
    assert others <= set(first)


async def test_a_long_queue_leaves_room_for_whoever_comes_with_a_first(queue: Queue) -> None:
    await queue.tenant("noisy", priority="high")
    await queue.ready("noisy", 200)
    assert await queue.claim(64, more=15) == ["noisy"] * 16
    assert await queue.claim(48, more=0, busy=["noisy training"]) == []
    for name in ("quiet", "still"):
        await queue.tenant(name)
        await queue.ready(name, 2)
    assert sorted(await queue.claim(48, more=0, busy=["noisy training"])) == ["quiet", "still"]
    assert Counter(await queue.claim(48, more=3, busy=["noisy training"])) == {"noisy": 3, "quiet": 1, "still": 1}


async def test_a_rest_saves_up_nothing(queue: Queue) -> None:
    await queue.tenant("rested")
    await queue.tenant("busy")
    await queue.ready("busy", 500)
    for _ in range(10):
        await queue.claim(20)
    await queue.ready("rested", 100)
    seen = Counter(await queue.claim(100))
    assert seen["busy"] == pytest.approx(50, abs=3)


async def test_all_that_is_high_goes_before_all_that_is_low(queue: Queue) -> None:
    for name in ("low", "normal", "high"):
        await queue.tenant(name, priority=name)
        await queue.ready(name, 5)
    assert await queue.claim(15) == ["high"] * 5 + ["normal"] * 5 + ["low"] * 5


async def test_a_quota_of_runs_an_hour_holds_and_blocks_nobody_else(queue: Queue) -> None:
    await queue.tenant("bounded", per_hour=3)
    await queue.tenant("free")
    await queue.ready("bounded", 20)
    await queue.ready("free", 20)
    seen: Counter[str] = Counter()
    for _ in range(4):
        seen.update(await queue.claim(10))
    assert seen == {"bounded": 3, "free": 20}
    assert await queue.claim(10, ahead=timedelta(minutes=59)) == []
    assert await queue.claim(10, ahead=timedelta(minutes=61)) == ["bounded"] * 3


async def test_a_burst_is_bounded_by_the_minute_and_the_hour_still_holds(queue: Queue) -> None:
    await queue.tenant("eager", burst=2, per_hour=5)
    await queue.ready("eager", 20)
    begun = [len(await queue.claim(10, ahead=timedelta(seconds=61 * n))) for n in range(4)]
    assert begun == [2, 2, 1, 0]
    assert len(await queue.claim(10, ahead=timedelta(minutes=61))) == 2


async def test_runs_that_were_cancelled_before_they_began_take_nothing_from_a_quota_and_give_nothing_back(queue: Queue) -> None:
    await queue.tenant("bounded", per_hour=2)
    await queue.ready("bounded", 2)
    assert len(await queue.claim(10)) == 2
    await queue.ready("bounded", 20)
    await queue.connection.fetch(_CANCEL, "bounded", queue.clock.now())
    await queue.ready("bounded", 2)
    assert await queue.claim(10) == []
    assert len(await queue.claim(10, ahead=timedelta(minutes=61))) == 2


async def test_a_quota_of_steps_at_a_time_holds(queue: Queue) -> None:
    await queue.tenant("bounded", concurrent=2)
    for pipeline in "abcd":
        await queue.active("bounded", pipeline)
    assert len(await queue.claim(10, end=False)) == 2
    assert await queue.claim(10) == []
    assert len(await queue.claim(10, end=False)) == 2


async def test_a_quota_of_steps_at_a_time_counts_those_with_a_place_of_a_neighbour(queue: Queue) -> None:
    await queue.tenant("bounded", concurrent=2)
    await queue.active("bounded", "a")
    for pipeline in "bcd":
        await queue.active("bounded", pipeline, "ml_engine")
    assert len(await queue.claim(10, end=False, limits={"ml_engine": 3})) == 2


@pytest.mark.parametrize("limit", [None, "ml_engine"])
async def test_a_quota_of_runs_begun_stops_no_later_step_of_a_run_that_has_begun(queue: Queue, limit: str | None) -> None:
    await queue.tenant("bounded", per_hour=1)
    await queue.ready("bounded", 1)
    await queue.claim(10)
    await queue.active("bounded", "a", limit)
    await queue.active("bounded", "b", limit, begun=True)
    assert len(await queue.claim(10, end=False, limits={"ml_engine": 3})) == 1
    [row] = await queue.connection.fetch("select stage from steps where worker is not null")
    assert row["stage"] == "index"


async def test_a_long_queue_of_a_tenant_whose_quota_is_spent_is_passed_over_quickly(queue: Queue) -> None:
    await queue.tenant("noisy", per_hour=1)
    await queue.ready("noisy", 10_000)
    assert await queue.claim(64) == ["noisy"]
    await queue.tenant("quiet")
    await queue.ready("quiet", 1)
    began = time.monotonic()
    assert await queue.claim(64) == ["quiet"]
    assert time.monotonic() - began < 2


async def test_limits_of_a_neighbour_are_shared_by_turns_too(queue: Queue) -> None:
    await queue.tenant("noisy")
    await queue.tenant("quiet")
    await queue.ready("noisy", 50, "ml_engine")
    await queue.claim(2, limits={"ml_engine": 2})
    await queue.ready("quiet", 1, "ml_engine")
    assert "quiet" in await queue.claim(2, limits={"ml_engine": 2})


async def test_a_claim_with_nothing_due_looks_once_and_is_cheap(queue: Queue) -> None:
    await queue.tenant("later")
    await queue.ready("later", 2000)
    await queue.connection.fetch("update steps set due_at = due_at + interval '1 hour'")
    await queue.connection.fetch("analyze steps")
    async with queue.connection.transaction() as transaction:
        before = await transaction.fetchval(_READ)  # not 0: the last moments before this transaction count, too
        assert await transaction.fetch(_CLAIM, queue.worker, 64, {}, queue.clock.now(), None, []) == []
        assert await transaction.fetchval(_READ) - before < 10


async def test_a_step_that_a_dead_worker_gives_back_keeps_its_turn(queue: Queue) -> None:
    await queue.tenant("acme")
    await queue.tenant("globex")
    await queue.ready("acme", 1)
    await queue.ready("globex", 30)
    await queue.claim(1, end=False)
    before = await queue.connection.fetch("select turn from steps where tenant_id = 'acme'")
    await queue.connection.value("select reap($1)", queue.clock.now() - timedelta(seconds=1))
    assert await queue.connection.fetch("select turn from steps where tenant_id = 'acme'") == before
    assert "acme" in await queue.claim(2)


async def test_a_step_that_was_handed_over_and_given_back_comes_before_runs_that_have_not_begun(queue: Queue) -> None:
    for name in ("acme", "globex", "initech"):
        await queue.tenant(name)
    await queue.ready("globex", 3)
    assert await queue.claim(1) == ["globex"]
    await queue.connection.fetch("alter table steps disable trigger steps_turn")  # as the commit of the step before would have it
    await queue.ready("acme", 1)
    await queue.connection.fetch("update steps set state = 'running', worker = $1, turn = 0 where tenant_id = 'acme'", uuid4())
    await queue.connection.fetch("alter table steps enable trigger steps_turn")
    await queue.ready("initech", 2)
    await queue.connection.fetch("select reap($1)", queue.clock.now() - timedelta(milliseconds=1))
    assert (await queue.claim(10))[0] == "acme"
