"""A quick look at ours alone, for whoever tunes the hot path: `scripts/bench look [WORKERS [BURST ...]]`."""

from collections.abc import Sequence

from bench import figures
from bench.figures import Burst
from bench.ours import init, ours
from bench.world import World


async def look(world: World, words: Sequence[str]) -> None:
    """[WORKERS [BURST ...]]: ours alone, one line for single runs, one a burst; figures of one try, to find what is slow, not to be quoted."""
    workers, *bursts = map(int, words or ("1", "50", "500"))
    await init(world)
    async with ours(world, workers=workers) as us:
        singles = await us.single(200)
        print(f"single     gap ms {figures.times(singles.gaps)}  trigger to first call ms {figures.times(singles.first)}", flush=True)
        for count in bursts:
            print(line(await us.burst(count)), flush=True)


def line(burst: Burst) -> str:
    gap = figures.times(burst.gaps)
    return (
        f"burst {burst.runs:5} {burst.runs_per_s:6.1f} runs/s  {1000 * burst.cpu_per_run:5.1f} CPU ms a run  gap p50 {gap['p50']:.1f} ms "
        f" others {burst.others:.2f} cores  {burst.cpu}"
    )
