"""What `scripts/bench profile` leaves behind beside the picture: `bench/results/profile.json` and its tables in `docs/performance.md`."""

from typing import Any

from bench.profiling.budget import Line
from bench.report import measured

NAMES = {"worker": "worker", "postgres": "PostgreSQL", "kafka": "Kafka", "all": ""}


def table(whole: dict[str, Any]) -> str:
    """The budget, then the functions."""
    lines = [Line(**each) for each in whole["budget"]]
    total = sum(each.ms for each in lines)
    rows = [f"{measured(whole)} A burst of {whole['runs']:,} runs at {whole['runs_per_s']:g} runs/s; {whole['samples']:,} samples of the worker.", ""]
    rows += ["| one hand-over | process | CPU, ms | share |", "|---|---|---|---|"]
    rows += [f"| {each.what} | {NAMES[each.part]} | {each.ms:.3f} | {each.ms / total:.0%} |" for each in lines]
    parts = {part: sum(each.ms for each in lines if each.part == part) for part in NAMES}
    rows.append(f"| **together** | {', '.join(f'{NAMES[p]} {ms:.2f}' for p, ms in parts.items() if NAMES[p])} | **{total:.3f}** | |")
    rows += ["", "| function of the ledger | calls | ms in all | ms in its own statements |", "|---|---|---|---|"]
    rows += [f"| `{each['funcname']}` | {each['calls']:,} | {each['total_ms']:,.0f} | {each['self_ms']:,.0f} |" for each in whole["functions"]]
    return "\n".join(rows)
