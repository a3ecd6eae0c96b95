"""All rounds of a benchmark run, and what they come to: figures with spread, and ratios taken round by round."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import figures
from bench.figures import Burst, Singles
from bench.processes import Costs

OURS, OURS_TWO, LIMIT = "tidemill, 1 worker", "tidemill, 2 workers", "limit (bare loop)"
DBOS_HERE, DBOS_QUEUE, DBOS_QUEUE_QUICK = "dbos, in process", "dbos, queue", "dbos, queue polled every 50 ms"
DBOS_BURSTS = ("dbos, 4 threads", "dbos, 8 threads", "dbos, queue, 2 processes")
COMMON = 500
"""The size of the burst that everybody does and ratios are taken from."""


@dataclass
class Results:
    """What was measured, by contestant; lists hold one entry a round."""

    singles: dict[str, list[Singles]] = field(default_factory=lambda: defaultdict(list))
    bursts: dict[str, dict[int, list[Burst]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    parts: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of a raw Kafka hop, a call and a commit, each alone."""
    idle: list[Costs] = field(default_factory=list)
    """MiB by part with one worker that has worked and has nothing to do."""

    def summary(self) -> dict[str, Any]:
        return {
            "ratios": self.ratios(),
            "single": {name: _singles(rounds) for name, rounds in self.singles.items()},
            "burst": {name: {str(count): _bursts(rounds) for count, rounds in sizes.items()} for name, sizes in self.bursts.items()},
            "alone_ms": {name: figures.times([each for one in rounds for each in one]) for name, rounds in self.parts.items()},
            "idle_mib": {part: round(statistics.median(each[part] for each in self.idle), 1) for part in self.idle[0]} if self.idle else {},
        }

    def ratios(self) -> dict[str, dict[str, dict[str, float]]]:
        """Ours to DBOS's best, and to the limit."""
        fastest = max(DBOS_BURSTS, key=lambda name: statistics.median(self._rates(name)))
        leanest = min(DBOS_BURSTS, key=lambda name: statistics.median(self._cpu(name)))
        best = max((OURS, OURS_TWO), key=lambda name: statistics.median(self._rates(name)))
        hops = [figures.quantile(each, 0.5) for each in self.parts["kafka_hop"]]
        return {
            "burst_runs_per_s": {
                "to_dbos": _ratio(self._rates(best), self._rates(fastest)),
                "to_limit": _ratio(self._rates(OURS), self._rates(LIMIT)),
                "two_workers_to_one": _ratio(self._rates(OURS_TWO), self._rates(OURS)),
            },
            "gap_p50": {"to_dbos": _ratio(self._gap(OURS), self._gap(DBOS_HERE)), "to_limit": _ratio(self._gap(OURS), self._gap(LIMIT))},
            "cpu_s_per_run": {
                "to_dbos": _ratio(self._cpu(OURS), self._cpu(leanest)),
                "to_limit": _ratio(self._cpu(OURS), self._cpu(LIMIT)),
            },
            "trigger_to_first_call": {
                "to_dbos": _ratio(self._first(OURS), self._first(DBOS_QUEUE)),
                "to_dbos_polled_every_50_ms": _ratio(self._first(OURS), self._first(DBOS_QUEUE_QUICK)),
                "to_limit": _ratio(self._first(OURS), hops),
            },
        }

    def _rates(self, name: str) -> list[float]:
        return [each.runs_per_s for each in self.bursts[name][COMMON]]

    def _cpu(self, name: str) -> list[float]:
        return [each.cpu_per_run for each in self.bursts[name][COMMON]]

    def _gap(self, name: str) -> list[float]:
        return [figures.quantile(each.gaps, 0.5) for each in self.singles[name]]

    def _first(self, name: str) -> list[float]:
        return [figures.quantile(each.first, 0.5) for each in self.singles[name]]


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Round by round, so that what disturbed a round disturbed both."""
    return figures.median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def _singles(rounds: list[Singles]) -> dict[str, Any]:
    def of(take: Callable[[Singles], list[float]]) -> dict[str, Any]:
        each = [take(one) for one in rounds]
        return figures.times([time for one in each for time in one]) | {
            "p50_of_rounds": figures.median([1000 * figures.quantile(one, 0.5) for one in each])
        }

    found = {"gap_ms": of(lambda one: one.gaps)}
    return found | {"trigger_to_first_call_ms": of(lambda one: one.first)} if rounds[0].first else found


def _bursts(rounds: list[Burst]) -> dict[str, Any]:
    peaks = [each for each in rounds if each.peak]
    return {
        "runs_per_s": figures.median([each.runs_per_s for each in rounds]),
        "runs_per_s_from_publish": figures.median([each.runs / each.from_publish for each in rounds]),
        "cpu_s_per_run": figures.median([each.cpu_per_run for each in rounds]),
        "cpu_s_by_part": {part: round(statistics.median(each.cpu.get(part, 0.0) for each in rounds), 2) for part in rounds[0].cpu},
        "gap_ms": figures.times([gap for each in rounds for gap in each.gaps]),
        "busy_cores": figures.median([each.busy for each in rounds]),
        "others_cores": figures.median([each.others for each in rounds]),
        "peak_mib": figures.median([each.counted(each.peak) for each in peaks]) if peaks else None,
    }
