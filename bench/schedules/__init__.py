"""`scripts/bench schedules`: due times that come at once and spread, idle schedules, one loud tenant, and shares by weight, on real servers."""

import time
from collections.abc import Sequence

from bench.ours import init
from bench.schedules.idle import idle
from bench.schedules.report import write
from bench.schedules.slots import at_once, spread
from bench.schedules.turns import loud, weights
from bench.world import World

PARTS = {"at_once": at_once, "spread": spread, "idle": idle, "loud": loud, "weights": weights}


async def schedules(world: World, words: Sequence[str]) -> None:
    """[PART ...]: how late schedules fire, what idle ones cost, whose turn it is; all parts and the table in the docs, or some of them to look at."""
    began = time.monotonic()
    await init(world)
    found = {}
    for name in words or PARTS:
        print(f"{time.monotonic() - began:5.0f} s  {name.replace('_', ' ')}", flush=True)
        found[name] = await PARTS[name](world)
        print(f"         {found[name]}", flush=True)
    if not words:
        print(write(found, seconds=time.monotonic() - began), flush=True)
