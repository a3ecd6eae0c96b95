"""Where the time goes: a flame graph of the worker and the times of the ledger's functions, both in the middle of a burst."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from bench.environment import environment
from bench.look import line
from bench.ours import init, ours
from bench.report import RESULTS
from bench.world import World
from streams.local.home import Home

RATE = 200
"""Samples a second; py-spy stops the process for each."""
_FUNCTIONS = """
select funcname, calls, round(total_time::numeric) as total_ms, round(self_time::numeric) as self_ms
from pg_stat_user_functions where calls > 0 order by self_time desc limit 15
"""


async def profile(world: World, words: Sequence[str]) -> None:
    """`scripts/bench profile [RUNS]`: in `bench/results/` a flame graph and, of a second burst, folded stacks; the functions' times are printed."""
    runs = int(words[0]) if words else 1000
    commands = await environment(Path(os.environ.get("BENCH_CACHE", world.home)) / "venv-profiling", Path(__file__).parent / "requirements.txt")
    await init(world)
    postgres = await asyncpg.connect(_superuser(world))
    try:
        await postgres.execute("alter database tidemill set track_functions = 'all'")
        async with ours(world, warm_up=200) as us:
            await postgres.execute("select pg_stat_reset()")
            for kind, name in (("flamegraph", "worker.svg"), ("raw", "worker.raw")):
                async with _recording(world, commands / "py-spy", kind, RESULTS / name):
                    print(line(await us.burst(runs)), flush=True)
            for row in await postgres.fetch(_FUNCTIONS):
                print("  ".join(f"{value!s:>16}" for value in row), flush=True)
    finally:
        await postgres.execute("alter database tidemill reset track_functions")
        await postgres.close()


def _superuser(world: World) -> str:
    password = Home(world.home, lambda _: None).secrets().postgres
    return f"postgresql://postgres:{password}@{world.addresses.postgres.rpartition('@')[2]}"


@asynccontextmanager
async def _recording(world: World, spy: Path, kind: str, file: Path) -> AsyncIterator[None]:
    """py-spy on the worker as long as the block lasts; it writes its file when it is interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(spy), "record", "-p", str(world.parts["worker-1"]), "-r", str(RATE), "-d", "600", "-f", kind, "-o", str(file)]
    async with world.process("py-spy", argv) as child:
        await asyncio.sleep(1)
        yield
        child.send_signal(signal.SIGINT)
        await child.wait()
