"""`scripts/bench [MODE] [WORDS]`: opens the world in a home folder of its own, and hands over; `scripts/bench --help` tells of the modes."""

import asyncio
import inspect
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.growth import growth
from bench.look import look
from bench.profiling import profile
from bench.quality import quality
from bench.quick import quick
from bench.schedules import schedules
from bench.unit import unit
from bench.waiting import wait
from bench.world import World, open_world

MODES: dict[str, Callable[[World, Sequence[str]], Awaitable[None]]] = {
    "quick": quick,
    "look": look,
    "growth": growth,
    "wait": wait,
    "profile": profile,
    "unit": unit,
    "schedules": schedules,
    "quality": quality,
}


async def main(mode: str, words: Sequence[str]) -> None:
    home = os.environ.get("BENCH_HOME") or tempfile.mkdtemp(prefix="tidemill-bench-")
    print(f"home folder of this benchmark: {home}", flush=True)
    async with open_world(Path(home)) as world:
        await MODES[mode](world, words)


def usage() -> str:
    """What each mode says of itself; `docs/performance.md` says what is measured and how."""
    told = [f"  {name:10} {(inspect.getdoc(mode) or '').splitlines()[0]}" for name, mode in MODES.items()]
    return "\n".join([f"usage: scripts/bench [{'|'.join(MODES)}] [WORDS]", "", *told])


if __name__ == "__main__":
    words = sys.argv[1:] or ["quick"]
    if {"-h", "--help"} & set(words):
        print(usage())
    elif words[0] not in MODES:
        sys.exit(usage())
    else:
        asyncio.run(main(words[0], words[1:]))
