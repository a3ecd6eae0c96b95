"""`scripts/bench [quick|look|profile|schedules|quality]`: opens the world in a home folder of its own, and hands over."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.look import look
from bench.profiling import profile
from bench.quality import quality
from bench.quick import quick
from bench.schedules import schedules
from bench.world import World, open_world

MODES: dict[str, Callable[[World, Sequence[str]], Awaitable[None]]] = {
    "quick": quick,
    "look": look,
    "profile": profile,
    "schedules": schedules,
    "quality": quality,
}


async def main(mode: str, words: Sequence[str]) -> None:
    home = os.environ.get("BENCH_HOME") or tempfile.mkdtemp(prefix="tidemill-bench-")
    print(f"home folder of this benchmark: {home}", flush=True)
    async with open_world(Path(home)) as world:
        await MODES[mode](world, words)


if __name__ == "__main__":
    words = sys.argv[1:] or ["quick"]
    if words[0] not in MODES:
        sys.exit(f"usage: scripts/bench [{'|'.join(MODES)}]")
    asyncio.run(main(words[0], words[1:]))
