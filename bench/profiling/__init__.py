"""Where the time goes: a flame graph of the worker in a burst, and the CPU of a hand-over line by line, all processes counted."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from bench import processes
from bench.environment import environment
from bench.look import line
from bench.ours import init, ours
from bench.processes import Costs
from bench.profiling.budget import budget
from bench.profiling.report import table
from bench.profiling.stacks import folded
from bench.report import RESULTS, publish
from bench.world import World
from streams.local.home import Home

RATE = 200
"""Samples a second; py-spy stops the process for each."""
_FUNCTIONS = """
select funcname, calls, round(total_time::numeric, 1)::float8 as total_ms, round(self_time::numeric, 1)::float8 as self_ms
from pg_stat_user_functions where calls > 0 order by self_time desc limit 12
"""
_BACKENDS = "select pid, case backend_type when 'client backend' then application_name else backend_type end as name from pg_stat_activity"


async def profile(world: World, words: Sequence[str]) -> None:
    """[RUNS]: the worker's flame graph in a burst, the CPU of a hand-over line by line, and the times of the ledger's functions."""
    runs = int(words[0]) if words else 3000
    began = time.monotonic()
    commands = await environment(Path(os.environ.get("BENCH_CACHE", world.home)) / "venv-profiling", Path(__file__).parent / "requirements.txt")
    await init(world)
    postgres = await asyncpg.connect(_superuser(world))
    raw, picture = world.home / "worker.folded", (world.home if words else RESULTS) / "profile-worker.svg"
    try:
        await postgres.execute("alter database tidemill set track_functions = 'all'")
        async with ours(world, warm_up=200) as us:
            print(line(await us.burst(runs)), flush=True)  # nobody looks yet: everything is warm after it
            await postgres.execute("select pg_stat_reset()")
            before = await _details(world, postgres)
            burst = await us.burst(runs)
            details = {part: processes.spent(before[part], costs) for part, costs in (await _details(world, postgres)).items()}
            print(line(burst), flush=True)
            functions = [dict(row) for row in await postgres.fetch(_FUNCTIONS)]
            for kind, file in (("raw", raw), ("flamegraph", picture)):
                async with _recording(world, commands / "py-spy", kind, file):
                    print(line(await us.burst(runs)), flush=True)
    finally:
        await postgres.execute("alter database tidemill reset track_functions")
        await postgres.close()
    stacks = folded(raw.read_text())
    found: dict[str, Any] = {"runs": runs, "runs_per_s": round(burst.runs_per_s, 1), "samples": sum(stacks.values()), "functions": functions}
    found["budget"] = [each._asdict() for each in budget(burst, stacks, details)]
    print(picture, publish("profile", found, table, seconds=time.monotonic() - began, kept=not words), sep="\n\n", flush=True)


def _superuser(world: World) -> str:
    password = Home(world.home, lambda _: None).secrets().postgres
    return f"postgresql://postgres:{password}@{world.addresses.postgres.rpartition('@')[2]}"


async def _details(world: World, postgres: "asyncpg.Connection[Any]") -> dict[str, Costs]:
    """CPU seconds so far of PostgreSQL's processes and of Kafka's threads, by `name number`."""
    backends = {f"{row['name']} {row['pid']}": processes.cpu(row["pid"]) for row in await postgres.fetch(_BACKENDS)}
    return {"postgres": backends, "kafka": processes.cpu_by_thread(world.parts["kafka"])}


@asynccontextmanager
async def _recording(world: World, spy: Path, kind: str, file: Path) -> AsyncIterator[None]:
    """py-spy on the worker as long as the block lasts; it writes its file when it is interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(spy), "record", "-p", str(world.parts["worker-1"]), "-r", str(RATE), "--gil", "-d", "600", "-f", kind, "-o", str(file)]
    async with world.process("py-spy", argv) as child:
        await asyncio.sleep(1)
        yield
        child.send_signal(signal.SIGINT)
        await child.wait()
    _entitle(file, argv)


def _entitle(picture: Path, argv: Sequence[str]) -> None:
    """py-spy writes its command line above a picture, paths of this machine and all."""
    picture.write_text(picture.read_text().replace(" ".join(argv), f"a worker in a burst: who held the interpreter's lock, {RATE} times a second"))
