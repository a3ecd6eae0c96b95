"""Many seeds on all cores: each process has a ledger of its own on the one server, and each finding comes back as a report."""

import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.run import Report, run_seeds
from tests.simulation.server import Server

PROCESSES = 2


@dataclass
class Storm:
    """What a number of seeds came to."""

    reports: list[Report] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bad(self) -> list[Report]:
        return [report for report in self.reports if report.violations]

    @property
    def points(self) -> int:
        return sum(report.points for report in self.reports)

    @property
    def places(self) -> Counter[str]:
        return sum((report.places for report in self.reports), Counter())

    def __str__(self) -> str:
        crashes = sum(report.crashes for report in self.reports)
        runs = sum((report.runs for report in self.reports), Counter())
        ends = ", ".join(f"{count} {state}" for state, count in runs.most_common())
        return (
            f"{len(self.reports)} seeds in {self.seconds:.1f} s ({60 * len(self.reports) / max(self.seconds, 0.001):.0f} a minute), "
            f"{self.points} crash points passed, {crashes} crashes, {runs.total()} runs ({ends}), {len(self.bad)} seeds with violations"
        )


def storm(server: Server, seeds: list[int], *, seconds: float = float("inf"), mutant: str | None = None, stop_at: tuple[str, ...] = ()) -> Storm:
    """Run the seeds, as many as the time allows; a mutant breaks the runtime of these processes before."""
    os.environ["PYTHONHASHSEED"] = "0"  # a set's order is nobody's choice
    began = time.monotonic()
    until = time.time() + seconds
    shares = [seeds[number::PROCESSES] for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        dsns = [server.ledger(f"lane{number}") for number in range(PROCESSES)]
        jobs = [pool.submit(run_lane, dsn, share, until, mutant, stop_at) for dsn, share in zip(dsns, shares, strict=True) if share]
        reports = [report for job in jobs for report in job.result()]
    return Storm(sorted(reports, key=lambda report: report.seed), time.monotonic() - began)


def run_lane(dsn: str, seeds: list[int], until: float, mutant: str | None, stop_at: tuple[str, ...]) -> list[Report]:
    """One process's share."""
    if mutant is None:
        return run_seeds(dsn, seeds, until=until, stop_at=stop_at)
    from tests.simulation.mutants import MUTANTS

    MUTANTS[mutant].break_it(dsn)
    return run_seeds(dsn, seeds, until=until, stop_at=stop_at, harsh=MUTANTS[mutant].harsh)


def fresh_seeds(count: int) -> list[int]:
    """Seeds that nobody has seen; none of them wide by plan or not."""
    return [random.SystemRandom().randrange(10**9) for _ in range(count)]
