"""What a chaos run came to: a table for people, the same as JSON for files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.rounds import Row


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so many of the values are at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def recovery(measured: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        what: {"times": len(v), "p50": round(percentile(v, 0.5), 2), "p99": round(percentile(v, 0.99), 2), "max": round(max(v), 2)}
        for what, v in sorted(measured.items())
        if v
    }


def as_json(rows: Iterable[Row], measured: Mapping[str, Sequence[float]], **facts: Any) -> dict[str, Any]:
    return {**facts, "faults": [asdict(row) for row in rows], "recovery_seconds": recovery(measured)}


def show(console: Console, rows: Sequence[Row], measured: Mapping[str, Sequence[float]]) -> None:
    """Two tables: what each fault did, and how long recovery took."""
    table = Table("fault", "times", "runs", "lost", "doubled", "wrong", "longest stall", "nothing moved", "time to drain")
    for row in rows:
        bad = "red" if row.lost or row.doubled or row.wrong else None
        counts = (str(number) for number in (row.times, row.runs, row.lost, row.doubled, row.wrong))
        table.add_row(row.fault, *counts, f"{row.stall:.1f} s", f"{row.quiet:.1f} s", f"{row.drain:.1f} s", style=bad)
    console.print(table)
    times = Table("recovery", "times", "p50", "p99", "longest")
    for what, numbers in recovery(measured).items():
        times.add_row(what, str(numbers["times"]), *(f"{numbers[name]:.2f} s" for name in ("p50", "p99", "max")))
    console.print(times)
    for row in rows:
        for sentence in row.violations[:20]:
            console.print(f"{row.fault}: {sentence}", style="red", highlight=False, markup=False)
        if len(row.violations) > 20:
            console.print(f"{row.fault}: and {len(row.violations) - 20} more", style="red")
