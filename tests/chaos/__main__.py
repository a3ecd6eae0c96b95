"""`scripts/chaos`: real servers, steady load, faults at random moments, and the checker's verdict after each round. Exit 1 on any violation."""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.chaos.faults import FAULTS
from tests.chaos.report import as_json, show
from tests.chaos.stage import staged

console = Console(width=140)
TIMES = {"kill9_worker": 10, "kill9_at_point": 5}
"""How often a fault is injected in one round; others three times."""


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long rounds are begun; the last one is played to its end")
    parser.add_argument("--seed", type=int, default=None, help="which moments, victims and choices; default: a fresh one, which is printed")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated; default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tenants", type=int, default=40)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--times", type=int, default=None, help="injections a round")
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True, help="the eager hand-over of steps")
    parser.add_argument("--json", type=Path, default=None, help="write the report to this file too")
    parser.add_argument("--home", type=Path, default=None, help="keep servers' data and logs in this folder; default: a fresh one below /tmp")
    chosen = parser.parse_args(argv)
    chosen.faults = [name for name in chosen.faults.split(",") if name]
    if unknown := set(chosen.faults) - set(FAULTS):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    chosen.seed = secrets.randbits(31) if chosen.seed is None else chosen.seed
    return chosen


async def run(chosen: argparse.Namespace) -> int:
    home = chosen.home or Path(tempfile.mkdtemp(prefix="tidemill-chaos-")) / "home"
    settings = {"TIDEMILL_RUNTIME__EAGER": str(chosen.eager).lower()}
    console.print(f"seed {chosen.seed}, logs in {home}/logs", highlight=False)
    began = time.monotonic()
    async with staged(
        home, seed=chosen.seed, workers=chosen.workers, tenants=chosen.tenants, rate=chosen.rate, settings=settings, say=lambda _: None
    ) as rounds:
        order, cycle = random.Random(chosen.seed), list(chosen.faults)
        until = time.monotonic() + chosen.minutes * 60
        while time.monotonic() < until:
            order.shuffle(cycle)
            for fault in cycle:
                if time.monotonic() >= until:
                    break
                row = await rounds.play(fault, chosen.times or TIMES.get(fault, 3))
                verdict = "[red]violated[/red]" if row.violations else "holds"
                console.print(f"{time.monotonic() - began:6.0f} s  {fault}: {row.times} times, {row.runs} runs, {verdict}", highlight=False)
                for sentence in rounds.fresh[:10]:
                    console.print(f"    {sentence}", style="red", highlight=False, markup=False)
        rows, measured, publisher = list(rounds.rows.values()), rounds.scene.watch.recovery, rounds.publisher
    show(console, rows, measured)
    broken = sum(len(row.violations) for row in rows)
    report = as_json(
        rows, measured, seed=chosen.seed, eager=chosen.eager, workers=chosen.workers, published=len(publisher.sent), violations=broken,
        seconds=round(time.monotonic() - began),
    )  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1))
    if broken:
        console.print(f"[red]{broken} violations[/red]; to see them again: scripts/chaos --seed {chosen.seed} --minutes {chosen.minutes}")
        return 1
    console.print(f"nothing lost, nothing doubled: {sum(r.times for r in rows)} faults, {sum(r.runs for r in rows)} runs, seed {chosen.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(arguments(sys.argv[1:]))))
