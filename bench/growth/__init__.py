"""`scripts/bench growth`: the same bursts on an empty ledger and on a full one, each with servers of its own, in turns; then a crash."""

import argparse
import shutil
import time
from collections.abc import Sequence
from typing import Any

from bench import figures
from bench.figures import Burst, Singles
from bench.growth.crash import crash
from bench.growth.history import counts, fill
from bench.growth.report import table
from bench.look import line
from bench.ours import init, ours
from bench.report import publish
from bench.world import World, open_world

SINGLES = 70
"""Runs of a round that are done one at a time."""


async def growth(world: World, words: Sequence[str]) -> None:
    """[--runs 125000] [--rounds 3] [--burst 1000] [--open 10000]: an empty ledger beside one with a million journal rows; a crash on the latter."""
    parser = argparse.ArgumentParser(prog="scripts/bench growth")
    parser.add_argument("--runs", type=int, default=125_000, help="finished runs in the full ledger; each has eight entries in the journal")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--open", type=int, default=10_000, help="open runs at the crash")
    given = parser.parse_args(words)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    async with open_world(world.home / "full") as grown:
        await init(world)
        await init(grown)
        async with ours(world) as empty, ours(grown) as full:
            say(f"filling one of two ledgers with {given.runs:,} runs")
            await fill(grown, given.runs)
            found: dict[str, Any] = {"filled": await counts(grown)}
            say(f"{found['filled']}; a burst each that is not counted")
            both = {"empty": empty, "full": full}
            for us in both.values():
                await us.burst(given.burst)
            rounds: dict[str, list[tuple[Singles, Burst]]] = {name: [] for name in both}
            for number in range(given.rounds):
                for name in both if number % 2 == 0 else reversed(both):
                    rounds[name].append((await both[name].single(SINGLES), await both[name].burst(given.burst)))
                    singles, burst = rounds[name][-1]
                    say(f"round {number + 1} of {given.rounds}, {name}: gap ms {figures.times(singles.gaps)}; {line(burst)}")
            found |= {"burst": given.burst, "emptier": await counts(world), **compared(rounds)}
        say(f"a crash with {given.open:,} open runs")
        found["crash"] = await crash(grown, given.open)
    shutil.rmtree(grown.home)
    print(publish("growth", found, table, seconds=time.monotonic() - began, kept=not words), flush=True)


def compared(rounds: dict[str, list[tuple[Singles, Burst]]]) -> dict[str, Any]:
    """Medians of the rounds, and the ratios full to empty, taken round by round."""
    each = {
        name: {
            "runs_per_s": [burst.runs_per_s for _, burst in results],
            "cpu_ms_per_run": [1000 * burst.cpu_per_run for _, burst in results],
            "gap_p50_ms": [1000 * figures.quantile(singles.gaps, 0.5) for singles, _ in results],
            "burst_gap_p50_ms": [1000 * figures.quantile(burst.gaps, 0.5) for _, burst in results],
        }
        for name, results in rounds.items()
    }
    ratios = {
        figure: figures.median([full / empty for full, empty in zip(each["full"][figure], each["empty"][figure], strict=True)])
        for figure in each["full"]
    }
    return {name: {figure: figures.median(values) for figure, values in one.items()} for name, one in each.items()} | {"full_to_empty": ratios}
