"""Runtimes broken on purpose: each forgets one thing that keeps work from being lost or done twice, and the simulation must notice.

`MUTANTS[name](dsn)` breaks the process that calls it, and the
ledger behind `dsn` where the broken thing is SQL.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from streams.dispatch import Dispatcher
from streams.outbox import Outbox
from streams.step import Step
from tests.simulation import broker


def delete_before_publish(_: str) -> None:
    """The outbox row is taken away first: a crash, or a broker that is away, loses the event."""
    publish = Outbox.publish

    def first(self: Outbox, rows: Any) -> None:
        rows = list(rows)

        async def take_away() -> None:
            await self._connection.fetch("delete from outbox where id = any($1)", [row["id"] for row in rows])
            publish(self, rows)

        task = asyncio.get_running_loop().create_task(take_away())
        self.__dict__.setdefault("_kept", []).append(task)

    Outbox.publish = first  # type: ignore[method-assign]


def no_fence(dsn: str) -> None:
    """A commit is taken from whoever sends it, whoever owns the step by then."""
    _replace(
        dsn,
        "commit_step",
        "v_step.worker is distinct from v_worker or v_step.fence <> (i ->> 'fence')::bigint or v_step.state not in",
        "v_step.state not in",
    )
    _replace(dsn, "commit_step", "v_step.state not in ('running', 'waiting')", "false")
    _replace(dsn, "hand_over", "and s.worker is not distinct from p_worker and s.fence = x.fence and s.state = 'running'", "")


def no_dedupe(dsn: str) -> None:
    """A request that was seen before is accepted again."""
    _replace(dsn, "accept_request", "select * into v_seen from inbox where event_key = v_key;", "select * into v_seen from inbox where false;")
    _replace(
        dsn,
        "accept_request",
        "case when v_head.pending_run is null then 'run' else 'merged' end, p_now);",
        "case when v_head.pending_run is null then 'run' else 'merged' end, p_now) on conflict do nothing;",
    )


def forget_early_completions(dsn: str) -> None:
    """A completion that comes before its job id is committed is not kept: the wake-up is lost."""
    _replace(dsn, "complete_job", "completed_at = p_now, failed = (i ->> 'failed')::boolean", "completed_at = null, failed = null, run_id = run_id")
    _replace(
        dsn, "complete_job", "set completion = i -> 'data', completion_id = (i ->> 'event_id')::uuid", "set completion = null, completion_id = null"
    )


def acknowledge_first(_: str) -> None:
    """Offsets are committed before the ledger has the records, and nobody looks for what is missing."""
    broker.ACKNOWLEDGE_FIRST = True
    no_offset_check(_)


def no_offset_check(_: str) -> None:
    """Nobody compares what was read with the log: what the consumer skips is gone."""
    from streams.gaps import Gaps

    async def nothing(self: Gaps) -> None:
        await asyncio.Event().wait()

    Gaps.run = nothing  # type: ignore[method-assign]
    Gaps.caught_up = lambda *_: True  # type: ignore[method-assign]


def no_reaper(_: str) -> None:
    """Steps of dead workers stay theirs."""

    async def nothing(self: Dispatcher) -> None:
        await asyncio.Event().wait()

    Dispatcher.run_reaper = nothing  # type: ignore[method-assign]


def no_sweep(_: str) -> None:
    """What a dead worker did not publish is published by nobody."""

    async def nothing(self: Outbox) -> int:
        return 0

    Outbox.sweep = nothing  # type: ignore[method-assign]


def key_of_the_attempt(_: str) -> None:
    """The idempotency key changes with each attempt."""
    Step.key = property(lambda self: f"{self.run_id}:{self.stage}:{self.round + 100 * self.attempt + 10000 * self.fence}")  # type: ignore[assignment, misc]


def anybodys_completion(dsn: str) -> None:
    """Whoever names a job completes it, of whichever tenant."""
    _replace(
        dsn,
        "commit_step",
        "where engine = i ->> 'engine' and job_id = i ->> 'job_id' and tenant_id = v_run.tenant_id returning * into v_job;",
        "where engine = i ->> 'engine' and job_id = i ->> 'job_id' and tenant_id = v_run.tenant_id; "
        "select * into v_job from jobs where engine = i ->> 'engine' and job_id = i ->> 'job_id' order by completed_at limit 1;",
    )


@dataclass(frozen=True, slots=True)
class Mutant:
    """How a runtime is broken, the weather in which that shows soonest, and the invariants of which one has to name it."""

    break_it: Callable[[str], None]
    invariants: str
    harsh: dict[str, float]


_CRASHES = {"crash": 0.2, "kill": 0.2}
MUTANTS: dict[str, Mutant] = {
    "delete_before_publish": Mutant(delete_before_publish, "I7", _CRASHES | {"send_fails": 0.4}),
    "no_fence": Mutant(no_fence, "I2 I3 I4", {"crash": 0.02, "freeze": 0.5, "slow": 0.5, "fails": 0.0}),
    "no_dedupe": Mutant(no_dedupe, "I1", {"redeliver": 0.8, "rebalance": 0.5}),
    "forget_early_completions": Mutant(forget_early_completions, "I1", {"early": 0.9, "no_callback": 0.0, "refuses": 0.0}),
    "acknowledge_first": Mutant(acknowledge_first, "I1", {"crash": 0.3, "kill": 0.3, "database_outage": 0.3}),
    "no_offset_check": Mutant(no_offset_check, "I1 I7", {"skip": 0.8, "rebalance": 0.5}),
    "no_reaper": Mutant(no_reaper, "I4", _CRASHES),
    "no_sweep": Mutant(no_sweep, "I7", _CRASHES | {"send_fails": 0.4}),
    "key_of_the_attempt": Mutant(key_of_the_attempt, "I2", {"breaks_off": 0.4}),
    "anybodys_completion": Mutant(anybodys_completion, "I6", {"foreign": 0.8, "early": 0.6}),
}


def _replace(dsn: str, function: str, what: str, by: str) -> None:
    asyncio.run(_redefine(dsn, function, what, by))


async def _redefine(dsn: str, function: str, what: str, by: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        text: str = await connection.fetchval("select pg_get_functiondef(oid) from pg_proc where proname = $1", function)
        if what not in text:
            raise LookupError(f"{function} has no longer the line that this mutant breaks: {what}")
        await connection.execute(text.replace(what, by))
    finally:
        await connection.close()
