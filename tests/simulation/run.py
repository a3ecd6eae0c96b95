"""Runs seeds one after the other on one ledger and one event loop; a report with violations tells the seed's story."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog

from streams import dispatch, expand, inbox, runtime, timers
from tests.simulation.checker import TABLES, Facts, check
from tests.simulation.life import install_points, task_factory
from tests.simulation.links import Lines
from tests.simulation.loop import VirtualLoop
from tests.simulation.real import RealWorld
from tests.simulation.script import Script, prepare, settle
from tests.simulation.world import Errors, World

REAL = 4
"""One seed in so many runs the platform's own pipeline, the others the toy one, which has one stage of each kind."""


@dataclass
class Report:
    """What a seed came to."""

    seed: int
    violations: list[str]
    points: int
    crashes: int
    runs: Counter[str]
    """By how they ended."""
    seconds: float
    trace: list[str] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        story = "\n".join(f"    {line}" for line in self.trace)
        return f"seed {self.seed} violates:\n" + "\n".join(f"  {each}" for each in self.violations) + f"\n  its story:\n{story}"


async def run_seed(seed: int, loop: VirtualLoop, lines: Lines, dsn: str, *, afresh: bool = True, **changes: Any) -> Report:
    """One seed from its empty ledger to the checker's verdict."""
    began = time.monotonic()
    world = (RealWorld if seed % REAL == 3 else World)(seed, loop, lines, dsn, **changes)
    try:
        await prepare(world, afresh=afresh)
        for slot in range(1, world.slots + 1):
            world.start_worker(slot)
        script = Script(world)
        await script.play()
        await settle(world)
        for worker in world.workers.values():
            for death in worker.silent_deaths():
                world.violate("worker", f"a task of the runtime of {worker.life.name} ended by itself: {death}")
        facts = await collect(world, script)
        world.over = True
        for worker in world.living:
            await world.stop_worker(worker)
        for worker in world.workers.values():
            worker.life.die("ends with its world")
            await worker.life.gone.wait()
        for violation in check(facts):
            world.violate(*violation.split(": ", 1))
    finally:
        await world.close()
    return Report(
        seed,
        world.violations,
        sum(world.points.values()),
        world.crashes,
        Counter(row["state"] for row in facts.tables["runs"]),
        time.monotonic() - began,
        list(world.choices.trace) if world.violations else [],
        world.points,
    )


async def collect(world: World, script: Script) -> Facts:
    """What is left of a world for the checker."""
    tables = {name: [dict(row) for row in await world.sql(f"select * from {name}")] for name in TABLES}
    return Facts(
        tables,
        world.broker.records(),
        set(world.pipelines.topics),
        script.answers,
        [*world.engine.journal.values(), *world.service.journal.values()],
        world.engine.jobs,
        script.cancelled,
        world.refused,
        {stage: stage for stage in world.commands},
    )


AFRESH = 25
_BLOCKED = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


def run_seeds(dsn: str, seeds: Iterable[int], *, until: float = float("inf"), stop_at: tuple[str, ...] = (), **changes: Any) -> list[Report]:
    """Seeds in a row on one event loop; no new one after the time `until` (time.time()), or a violation of an invariant to `stop_at` ("I1:")."""
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, Errors()], cache_logger_on_first_use=False)
    install_points()
    timers.IDLE = expand.IDLE = 60.0  # no seed has schedules: their polls would be a third of all that is said, and say nothing
    dispatch.REAP_EVERY = 4.0
    runtime.SWEEP_OUTBOX = 4.0
    inbox.ECHO_FLUSH = 1.0
    reports: list[Report] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, psycopg.connect(dsn, autocommit=True) as watch:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        loop.blocked = lambda: bool(watch.execute(_BLOCKED).fetchone())
        loop.set_task_factory(task_factory)
        loop.set_exception_handler(lambda loop, context: None)  # what nobody awaited any more belonged to the dead
        lines = Lines(loop)
        lines.install()
        for number, seed in enumerate(seeds):
            if time.time() > until:
                break
            reports.append(runner.run(run_seed(seed, loop, lines, dsn, afresh=number % AFRESH == 0, **changes)))
            if any(violation.startswith(stop_at) for violation in reports[-1].violations):
                break
        runner.run(lines.close())
    return reports
