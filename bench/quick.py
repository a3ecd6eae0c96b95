"""The quick table: everybody in turns on one stack, several rounds, every second one backwards; then JSON, plots and the table in the docs."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench import bare, peer, processes, report
from bench.ours import init, ours
from bench.results import DBOS_BURSTS, DBOS_HERE, DBOS_QUEUE, DBOS_QUEUE_QUICK, LIMIT, OURS, OURS_TWO, Results
from bench.world import World

ROUNDS = 3
SINGLES, QUEUED = 70, 8
"""Runs of a round that are done one at a time; 3 rounds make more than 200."""
BURSTS = (50, 500)
GREAT = 5000
SETTLE = 3.0
"""Seconds after which a worker that has nothing to do counts as idle."""


class Quick:
    """One benchmark run."""

    def __init__(self, world: World, python: Path) -> None:
        self.world, self.python, self.results = world, python, Results()

    def turns(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.one_worker, self.dbos_in_process, self.limit, self.two_workers, self.dbos_queue]

    async def one_worker(self) -> None:
        async with ours(self.world) as us:
            await asyncio.sleep(SETTLE)
            self.results.idle.append(processes.pss_of(self.world.parts))
            self.results.singles[OURS].append(await us.single(SINGLES))
            for count in (*BURSTS, GREAT):
                self.results.bursts[OURS][count].append(await us.burst(count))

    async def two_workers(self) -> None:
        async with ours(self.world, workers=2) as us:
            for count in (*BURSTS, GREAT):
                self.results.bursts[OURS_TWO][count].append(await us.burst(count))

    async def dbos_in_process(self) -> None:
        async with peer.dbos(self.world, self.python) as them:
            self.results.singles[DBOS_HERE].append(await them.single(SINGLES))
            self.results.singles[DBOS_QUEUE].append(await them.single_queued(QUEUED))
            for name, threads in zip(DBOS_BURSTS, (4, 8), strict=False):
                for count in BURSTS:
                    self.results.bursts[name][count].append(await them.burst_here(count, threads))

    async def dbos_queue(self) -> None:
        async with peer.dbos(self.world, self.python, processes=2, poll=peer.QUICK_POLL) as them:
            self.results.singles[DBOS_QUEUE_QUICK].append(await them.single_queued(QUEUED))
            for count in BURSTS:
                self.results.bursts[DBOS_BURSTS[2]][count].append(await them.burst_queued(count))

    async def limit(self) -> None:
        async with bare.bare(self.world) as loop:
            for name, seconds in (await loop.parts(SINGLES)).items():
                self.results.parts[name].append(seconds)
            self.results.singles[LIMIT].append(await loop.single(SINGLES))
            for count in (*BURSTS, GREAT):
                self.results.bursts[LIMIT][count].append(await loop.burst(count))


async def quick(world: World, words: Sequence[str]) -> None:
    """[ROUNDS]: everybody in turns; the quick table, JSON and pictures. The default; how late schedules fire is measured by `schedules`."""
    rounds = int(words[0]) if words else ROUNDS
    began = time.monotonic()
    await init(world)
    await bare.prepare(world)
    run = Quick(world, await peer.prepare(world, Path(os.environ.get("BENCH_CACHE", world.home))))
    for number in range(rounds):
        turns = run.turns()
        for turn in turns if number % 2 == 0 else turns[::-1]:
            print(f"{time.monotonic() - began:5.0f} s  round {number + 1} of {rounds}: {turn.__name__.replace('_', ' ')}", flush=True)
            await turn()
    print(report.write("quick", run.results.summary(), seconds=time.monotonic() - began, rounds=rounds), flush=True)
