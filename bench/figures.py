"""What a round of a contestant came to, and how many of them become one figure: medians, with the spread beside them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench.processes import Costs
from bench.world import Hit

CALLS = 6
"""Of a run, one a stage."""
NOT_COUNTED = ("stub", "valkey", "seaweedfs", "py-spy")
"""Parts that no stage of the benchmark uses (or all alike, as the stub); they are shown, but are in nobody's sum."""


@dataclass
class Singles:
    """One run at a time on an otherwise idle system, in seconds."""

    gaps: list[float]
    """Between two calls of one run."""
    first: list[float] = field(default_factory=list)
    """From the trigger to the run's first call."""


@dataclass
class Burst:
    """Many runs asked for at once."""

    runs: int
    seconds: float
    """First call to last."""
    from_publish: float
    """Asking for the first run to the last call."""
    gaps: list[float]
    cpu: Costs
    """CPU seconds by part, until everything is quiet again."""
    busy: float
    """Cores of the machine that were busy until the last run was over, whoever had them."""
    others: float
    """Cores that everybody else on the machine used meanwhile."""
    peak: Costs = field(default_factory=dict)
    """MiB (PSS) by part when all together held most; empty when it was over too soon to look."""

    without: tuple[str, ...] = ()
    """Parts of the stack that this contestant has no use for."""

    @property
    def runs_per_s(self) -> float:
        return self.runs / self.seconds

    @property
    def cpu_per_run(self) -> float:
        return self.counted(self.cpu) / self.runs

    def counted(self, costs: Costs) -> float:
        """The sum over the parts that work for this contestant."""
        return sum(cost for part, cost in costs.items() if part not in NOT_COUNTED + self.without)


def by_run(hits: Iterable[Hit]) -> dict[str, list[float]]:
    """When each run called, in order."""
    runs: dict[str, list[float]] = {}
    for hit in hits:
        runs.setdefault(hit.run, []).append(hit.at)
    return {run: sorted(times) for run, times in runs.items()}


def gaps(runs: Mapping[str, Sequence[float]]) -> list[float]:
    return [after - before for times in runs.values() for before, after in pairwise(times)]


def check(runs: Mapping[str, Sequence[float]], expected: int) -> None:
    """A round in which a run called too little or too often measures something else."""
    wrong = [run for run, times in runs.items() if len(times) != CALLS]
    if wrong or len(runs) != expected:
        raise RuntimeError(f"{len(runs)} of {expected} runs called, {len(wrong)} of them not {CALLS} times (such as {wrong[:3]})")


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]


def median(values: Sequence[float]) -> dict[str, float]:
    """A figure of several rounds: median, and the least and the greatest beside it."""
    return {"median": round(statistics.median(values), 6), "min": round(min(values), 6), "max": round(max(values), 6), "rounds": len(values)}


def times(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds of many single happenings."""
    return {f"p{share}": round(1000 * quantile(values, share / 100), 3) for share in (50, 95, 99)} | {"n": len(values)}
