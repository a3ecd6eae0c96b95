"""What happens in a seed: people and programs ask for things at random times while the scheduler breaks whatever it likes."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from streams import names
from streams.ledger.groupcommit import Stopped
from streams.requests import cancel_run, request_run, retry_run
from tests.simulation.life import LIFE
from tests.simulation.worker import Worker
from tests.simulation.world import World

POISON = (b"{not json", b'{"tenant_id": "../x"}', b"\xff\xfe", b"[]", b'{"tenant_id": "acme", "slot": "\\u0000"}', b"")
BAD_HEADERS: Any = (("x-null", None), ("x\0nul", b"1"))
_TABLES = "select tablename from pg_tables where schemaname = 'public' and tablename not in ('alembic_version', 'clock')"


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that the API said yes to."""

    tenant_id: str
    event_id: UUID
    run_id: UUID


class Script:
    """The people of one seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: list[Answered] = []
        self.cancelled: set[UUID] = set()
        self.reopened: set[UUID] = set()
        self._open_calls = 0
        self._answered = asyncio.Event()
        self._answered.set()

    async def play(self) -> None:
        """The bad time: things are asked for and break."""
        world, choices = self.world, self.world.choices
        for _ in range(choices.number(3, 9)):
            world.later(choices.between(0, 15), self._ask)
        for _ in range(choices.number(0, 2)):
            world.later(choices.between(0, 20), self._publish_poison)
        for _ in range(choices.number(0, 2)):
            world.later(choices.between(2, 30), lambda: world.spawn(self._cancel_some()))
        for _ in range(choices.number(0, 2)):
            world.later(choices.between(10, 40), lambda: world.spawn(self._retry_some()))
        for _ in range(choices.number(15, 40)):
            await asyncio.sleep(1)
            await self._disturb()
        world.say("calm")
        choices.calm = True
        await self._answered.wait()

    async def _disturb(self) -> None:
        world, choices, weather = self.world, self.world.choices, self.world.weather
        if not (living := world.living):
            return
        worker = choices.pick(living)
        if choices.chance(weather.kill):
            world.crashes += 1
            worker.life.die("is killed")
        elif choices.chance(weather.stop):
            world.spawn(world.stop_worker(worker))
        elif choices.chance(weather.freeze) and not worker.life.frozen:
            world.spawn(world.freeze_worker(worker))
        elif choices.chance(weather.rebalance):
            world.say("rebalance")
            world.broker.rebalance()
        if choices.chance(weather.database_outage):
            worker.life.down_until = world.loop.time() + choices.between(0.5, 20)
            world.say(f"{worker.life.name} has no database until {worker.life.down_until - world.began:.1f}")
        if choices.chance(weather.broker_outage):
            world.broker.down_until = world.loop.time() + choices.between(0.5, 10)
            world.say(f"no broker until {world.broker.down_until - world.began:.1f}")
        if choices.chance(weather.leap):
            await leap(world)

    def _ask(self) -> None:
        choices, world = self.world.choices, self.world
        tenant = choices.pick(world.tenants)
        how = choices.number(0, 9)
        if how < 4:
            world.spawn(self._request(tenant))
            return
        body: dict[str, Any] = {"tenant_id": tenant} | ({"reason": f"r{choices.number(0, 9)}"} if choices.number(0, 1) else {})
        headers = [("ce_id", str(choices.uuid()).encode()), ("ce_source", b"publisher")] if how < 9 else []
        for _ in range(choices.pick([1, 1, 1, 2, 4]) if headers else 1):  # a bare event published twice is two
            world.broker.append("training.requested", tenant.encode(), json.dumps(body).encode(), headers)

    def _publish_poison(self) -> None:
        choices, broker = self.world.choices, self.world.broker
        topic = choices.pick(self.world.pipelines.topics)
        if choices.number(0, 2):
            broker.append(topic, choices.pick([None, b"x" * 70]), choices.pick(POISON), BAD_HEADERS)
        else:  # somebody who says to be us
            headers = [("ce_id", str(choices.uuid()).encode()), ("ce_source", b"tidemill")]
            tenant = choices.pick(self.world.tenants)
            broker.append("training.requested", tenant.encode(), json.dumps({"tenant_id": tenant}).encode(), headers)

    async def _request(self, tenant: str) -> None:
        """A client of the API: asks under a key until somebody answers."""
        key = str(self.world.choices.uuid())
        answer = await self._call(lambda w: request_run(w.ledger, self.world.pipelines, tenant_id=tenant, request_key=key))
        if answer["result"] not in ("run", "pending", "merged", "seen"):
            self.world.violate("I1", f"a good request of {tenant} was answered with {answer}")
            return
        self.answers.append(Answered(tenant, names.request_event(tenant, key), UUID(str(answer["run_id"]))))

    async def _cancel_some(self) -> None:
        rows = await self.world.sql("select run_id from runs where finished_at is null order by run_id")
        if rows:
            run: UUID = self.world.choices.pick(rows)["run_id"]
            answer = await self._call(lambda w: cancel_run(w.ledger, self.world.pipelines, run, by="somebody"))
            self.world.say(f"cancel {run}: {answer['result']}")
            self.cancelled.add(run)  # also when refused: an answer may have got lost

    async def _retry_some(self) -> None:
        rows = await self.world.sql("select run_id, stage from runs where finished_at is not null order by run_id")
        if rows:
            row = self.world.choices.pick(rows)
            run: UUID = row["run_id"]
            self.reopened.add(run)
            answer = await self._call(lambda w: retry_run(w.ledger, self.world.pipelines, run, by="somebody"))
            self.world.say(f"retry {run}: {answer['result']} {answer.get('stage', '')}")

    async def _call(self, call: Any) -> dict[str, Any]:
        """One call of an operator, by a worker that lives; tried again when that one dies over it."""
        self._open_calls += 1
        self._answered.clear()
        try:
            while True:
                await asyncio.sleep(0.2)
                if not (living := self.world.living):
                    continue
                worker: Worker = self.world.choices.pick(living)
                task = worker.life.run(call(worker))
                await asyncio.wait({task}, timeout=30)
                if not task.done():
                    task.cancel()
                elif not task.cancelled() and (error := task.exception()) is None:
                    return dict(task.result())
                elif not task.cancelled() and isinstance(error, AssertionError | KeyError | TypeError | Stopped):
                    self.world.violate("API", f"a call raised {error!r}") if not isinstance(error, Stopped) else None
        finally:
            self._open_calls -= 1
            if not self._open_calls:
                self._answered.set()


async def leap(world: World) -> bool:
    """Move the due logic's clock on to the next due step; whether there was one."""
    rows = await world.sql(
        "select min(due_at) as due from steps where worker is null and state in ('ready', 'waiting') and due_at > $1", world.clock.now()
    )
    due = rows[0]["due"]
    if due is None:
        return False
    world.say(f"the clock leaps {(due - world.clock.now()).total_seconds():.0f} s")
    world.clock.ahead += due - world.clock.now()
    return True


async def prepare(world: World, *, afresh: bool) -> None:
    """An empty ledger, and the server's clock at the world's time."""
    LIFE.set(None)
    world.admin = await world.lines.open(world.dsn)
    tables = [row["tablename"] for row in await world.sql(_TABLES)]
    if afresh:  # truncating thirty tables takes a hundred times as long as deleting their few rows, which leaves dead ones behind
        await world.execute(f"truncate {', '.join(tables)} restart identity")
    else:
        await world.execute("; ".join(f"delete from {table}" for table in sorted(tables, key=_depth)))
    await world.sql("update sim.clock set now = $1", world.server_time())
    world.spawn(_tick(world))


def _depth(table: str) -> int:
    """Who refers to others goes first."""
    return 2 if table == "tenants" else 1 if table in ("incidents", "schedules") else 0


async def _tick(world: World) -> None:
    while True:
        await asyncio.sleep(1)
        await world.sql("update sim.clock set now = $1", world.server_time())


_OPEN = """
select (select count(*) from runs where finished_at is null) as runs, (select count(*) from steps where worker is not null) as leased,
       (select count(*) from outbox) as outbox, (select count(*) from gaps where state = 'open') as gaps
"""
LONGEST = 900
"""Virtual seconds of calm after which whatever is still open is stuck."""
STILL = 100
"""The same when nothing at all has changed for so long: longer than any hang or freeze that is still to end."""
_PROGRESS = (
    "select count(*), (select sum(next) from offsets), (select count(*) from outbox), (select count(*) from gaps where state = 'open') from journal"
)


async def settle(world: World) -> None:
    """Wait, leaping over idle time, until everything has come to its end; what does not is a violation."""
    still = 0
    before: tuple[Any, ...] = ()
    for second in range(LONGEST):
        await asyncio.sleep(1)
        now = (*(await world.sql(_PROGRESS))[0], world.clock.ahead, world.timers)
        still, before = still + 1 if now == before else 0, now
        if still >= STILL:
            break
        if not _calm(world):
            continue
        [row] = await world.sql(_OPEN)
        if row["leased"] or row["outbox"]:
            continue
        marks = {(r["topic"], r["partition"]): r["next"] for r in await world.sql("select * from offsets")}
        reached = all(marks.get(place, 0) == len(world.broker.log.get(place, ())) for place in world.broker.consumed)
        if not row["runs"] and reached and not row["gaps"]:
            world.say(f"settled after {second} s")
            return
        if row["runs"]:
            await leap(world)
    moving = {worker.life.name: worker.moving for worker in world.living}
    behind = world.broker.behind()
    world.violate("I4", f"not at rest after {second} s: timers {world.timers}, behind {behind}, in hand {moving}, living {len(world.living)}")
    for worker in world.living:
        for task in worker.life.tasks:
            world.say(f"{worker.life.name} still does {' < '.join(frame.f_code.co_name for frame in task.get_stack())} {task.get_name()}")


def _calm(world: World) -> bool:
    """Whether nothing moves in memory."""
    lives = len(world.living) == world.slots and all(not worker.life.frozen for worker in world.living)
    return lives and world.timers == 0 and not world.broker.behind() and not any(worker.moving for worker in world.living)
