"""What a chaos run came to: a table for people, the same as JSON for files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.rounds import Round


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


def as_json(rounds: Round, **facts: Any) -> dict[str, Any]:
    """Everything that the tables show."""
    scene, total = rounds.scene, rounds.total
    return {
        **facts,
        "kills": scene.kills,
        "steps_in_hand_when_killed": dict(scene.hit),
        "injected": {name: row.times for name, row in sorted(rounds.rows.items())},
        "total": asdict(total),
        "faults": [asdict(row) for row in rounds.rows.values()],
        "recovery_seconds": recovery(scene.watch.recovery),
    }


def show(console: Console, rounds: Round) -> None:
    """Two tables and a line: what each fault did, how long recovery took, and which stages were hit."""
    table = Table("fault", "times", "rounds", "runs", "lost", "doubled", "wrong", "longest stall", "nothing moved", "time to drain")
    for row in [*rounds.rows.values(), rounds.total]:
        if row is rounds.total:
            table.add_section()
        bad = "red" if row.lost or row.doubled or row.wrong else None
        counts = (str(number) for number in (row.times, row.rounds, row.runs, row.lost, row.doubled, row.wrong))
        table.add_row(row.fault, *counts, f"{row.stall:.1f} s", f"{row.quiet:.1f} s", f"{row.drain:.1f} s", style=bad)
    console.print(table)
    times = Table("recovery", "times", "p50", "p99", "longest")
    for what, numbers in recovery(rounds.scene.watch.recovery).items():
        times.add_row(what, str(numbers["times"]), *(f"{numbers[name]:.2f} s" for name in ("p50", "p99", "max")))
    console.print(times)
    hit = ", ".join(f"{stage} {times}" for stage, times in rounds.scene.hit.most_common())
    console.print(f"{rounds.scene.kills} workers died of SIGKILL; steps in their hands: {hit or 'none'}", highlight=False)
    for sentence in rounds.total.violations[:50]:
        console.print(sentence, style="red", highlight=False, markup=False)
    if len(rounds.total.violations) > 50:
        console.print(f"and {len(rounds.total.violations) - 50} more", style="red")
