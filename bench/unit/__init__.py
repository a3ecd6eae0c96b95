"""`scripts/bench unit`: what one event costs at each station of its way (decode, accept, commit, encode, fold), by pytest-benchmark."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.ours import init
from bench.plot import number
from bench.report import measured, publish
from bench.world import ROOT, World

HERE = Path(__file__).parent
NAMES = ("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*")
ALIKE = ("-p", "no:randomly", "-p", "no:cacheprovider", "--benchmark-disable-gc", "-q")
"""The same order and the same work in every run."""


async def unit(world: World, words: Sequence[str]) -> None:
    """[PYTEST WORDS]: decode, accept, commit, encode and fold by themselves; `unit -k hand_over` for some, which stay out of the docs."""
    began = time.monotonic()
    await init(world)
    found = world.home / "unit.json"
    argv = [sys.executable, "-m", "pytest", str(HERE), *NAMES, *ALIKE, f"--benchmark-json={found}", *words]
    child = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=os.environ | {"BENCH_DSN": world.addresses.postgres})
    if await child.wait():
        raise SystemExit("a bench of scripts/bench unit failed; see above")
    benches = [_bench(each) for each in json.loads(found.read_text())["benchmarks"]]
    print(publish("unit", {"benches": benches}, table, seconds=time.monotonic() - began, kept=not words), flush=True)


def _bench(said: dict[str, Any]) -> dict[str, Any]:
    """Microseconds an item: a call of many items is divided by them."""
    items, stats = said["extra_info"]["items"], said["stats"]
    us = {name: round(1e6 * stats[name] / items, 2) for name in ("median", "q1", "q3")}
    return {"what": said["extra_info"]["what"], "items": items, "us_an_item": us, "rounds": stats["rounds"] * stats["iterations"]}


def table(whole: dict[str, Any]) -> str:
    rows = [measured(whole), "", "| what | at once | µs each: median (quartiles) | rounds |", "|---|---|---|---|"]
    for each in whole["benches"]:
        us = each["us_an_item"]
        rows.append(f"| {each['what']} | {each['items']} | {number(us['median'])} ({number(us['q1'])} to {number(us['q3'])}) | {each['rounds']:,} |")
    return "\n".join(rows)
