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
from tests.chaos.mutant import REAL
from tests.chaos.plan import Plan
from tests.chaos.report import as_json, show
from tests.chaos.stage import staged

console = Console(width=140)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long rounds are begun; the last one is played to its end")
    parser.add_argument("--seed", type=int, default=None, help="which moments, victims and choices; default: a fresh one, which is printed")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated; default: all")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--tenants", type=int, default=40)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--kills", type=int, default=300, help="how many random kills to aim at; which kind of round comes next depends on it")
    parser.add_argument("--each", type=int, default=10, help="how many injections of every other fault to aim at")
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True, help="the eager hand-over of steps")
    parser.add_argument("--mutant", choices=REAL, default=None, help="run workers that are broken on purpose: violations must be found")
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
        home,
        seed=chosen.seed,
        workers=chosen.workers,
        tenants=chosen.tenants,
        rate=chosen.rate,
        settings=settings,
        say=lambda _: None,
        mutant=chosen.mutant,
    ) as rounds:
        plan = Plan(chosen.faults, kills=chosen.kills, each=chosen.each, dice=random.Random(chosen.seed))
        until = time.monotonic() + chosen.minutes * 60
        while time.monotonic() < until:
            kind, lanes = plan.next()
            row = await rounds.play(lanes, min(kind.seconds, max(5, until - time.monotonic())), plan.injected)
            verdict = "[red]violated[/red]" if row.violations else "holds"
            told = f"{row.times} faults, {rounds.scene.kills} kills so far, {row.runs} runs, drained in {row.drain:.0f} s, {verdict}"
            console.print(f"{time.monotonic() - began:6.0f} s  {kind.name}: {told}", highlight=False)
            for sentence in rounds.fresh[:10]:
                console.print(f"    {sentence}", style="red", highlight=False, markup=False)
    show(console, rounds)
    total = rounds.total
    report = as_json(
        rounds, seed=chosen.seed, eager=chosen.eager, workers=chosen.workers, published=len(rounds.publisher.sent),
        seconds=round(time.monotonic() - began),
    )  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1))
    if total.violations:
        console.print(
            f"[red]{len(total.violations)} violations[/red]; to see them again: scripts/chaos --seed {chosen.seed} --minutes {chosen.minutes}"
        )
        return 1
    console.print(f"nothing lost, nothing doubled: {total.times} faults, {rounds.scene.kills} kills, {total.runs} runs, seed {chosen.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(arguments(sys.argv[1:]))))
