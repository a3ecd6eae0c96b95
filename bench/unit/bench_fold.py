"""The reducer: a tenant's journal, as the ledger wrote it, to the rows of its runs and steps."""

from typing import Any

from bench.unit.conftest import Clerk
from streams.fold import fold

RUNS = 25


def bench_fold(benchmark: Any, clerk: Clerk) -> None:
    entries = clerk.journal(RUNS)
    benchmark.extra_info |= {"what": f"fold: an entry of a journal of {RUNS} runs", "items": len(entries)}
    state = benchmark(fold, entries)
    assert len(state.runs) == RUNS
    assert {run.state for run in state.runs.values()} == {"succeeded"}
