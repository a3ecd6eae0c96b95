"""What a benchmark run leaves behind: JSON and pictures under `bench/results/`, and the table in `docs/performance.md`."""

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from bench.plot import Bar, bars, number
from bench.world import ROOT

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
TARGETS = {
    ("burst_runs_per_s", "to_dbos"): (">=", 5.0),
    ("burst_runs_per_s", "to_limit"): (">=", 0.6),
    ("burst_runs_per_s", "two_workers_to_one"): (">=", 1.5),
    ("gap_p50", "to_dbos"): ("<=", 0.7),
    ("gap_p50", "to_limit"): ("<=", 1.5),
    ("cpu_s_per_run", "to_dbos"): ("<=", 0.2),
    ("trigger_to_first_call", "to_dbos"): ("<=", 0.05),
    ("trigger_to_first_call", "to_limit"): ("<=", 4.0),
}


def write(name: str, summary: dict[str, Any], *, seconds: float, rounds: int) -> str:
    """Keep everything; gives the table."""
    text = publish(name, {"rounds": rounds, **summary}, table, seconds=seconds, marker="bench")
    for title, picture in pictures(summary).items():
        (RESULTS / f"{name}-{title}.svg").write_text(picture)
    return text


def publish(
    name: str, found: dict[str, Any], table: Callable[[dict[str, Any]], str], *, seconds: float, marker: str | None = None, kept: bool = True
) -> str:
    """The table of what was found. Unless it was a small try, all is kept in `bench/results/`, and the table goes between its markers in the docs."""
    whole = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds), "machine": machine(), **found}
    text = table(whole)
    if kept:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
        PAGE.write_text(between(PAGE.read_text(), marker or name, text))
    return text


def between(page: str, marker: str, text: str) -> str:
    """The page with what is between its markers made anew."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def measured(whole: dict[str, Any]) -> str:
    """When, how long and on what: the line above a table."""
    return f"Measured {whole['at'][:10]}: {whole['seconds']} s, {whole['machine']['cores']} cores, Python {whole['machine']['python']}."


def target(value: float, sign: str, wanted: float, unit: str = "") -> str:
    """What was wanted, and whether it was met."""
    met = value <= wanted if sign == "<=" else value >= wanted
    return f"{'at most' if sign == '<=' else 'at least'} {wanted:g}{unit}: {'met' if met else 'missed'}"


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "aiokafka": version("aiokafka"),
        "faust": version("faust-streaming"),
        "load": [round(each, 1) for each in os.getloadavg()],
    }


def pictures(summary: dict[str, Any]) -> dict[str, str]:
    """One picture a figure."""
    single, burst = summary["single"], summary["burst"]
    made = {
        "gap": bars("Stage to stage, one run at a time", "ms, p50", [_bar(n, s["gap_ms"]["p50_of_rounds"]) for n, s in single.items()]),
        "first-call": bars(
            "Trigger to first stage call",
            "ms, p50",
            [_bar(n, s["trigger_to_first_call_ms"]["p50_of_rounds"]) for n, s in single.items() if "trigger_to_first_call_ms" in s],
        ),
    }
    for count in sorted({int(each) for sizes in burst.values() for each in sizes}):
        there = {name: sizes[str(count)] for name, sizes in burst.items() if str(count) in sizes}
        made[f"burst-{count}"] = bars(f"Runs a second in a burst of {count}", "runs/s", [_bar(n, s["runs_per_s"]) for n, s in there.items()])
        made[f"cpu-{count}"] = bars(
            f"CPU of a run in a burst of {count}", "ms, all processes", [_bar(n, s["cpu_s_per_run"], 1000) for n, s in there.items()]
        )
    return made


def _bar(name: str, figure: dict[str, float], times: float = 1) -> Bar:
    return Bar(name, figure["median"] * times, figure["min"] * times, figure["max"] * times)


def table(whole: dict[str, Any]) -> str:
    """Ratios against their targets, then the figures they come from."""
    rows = [f"{measured(whole)} {whole['rounds']} rounds in turns.", ""]
    rows += ["| ratio | median (least to most) | target |", "|---|---|---|"]
    rows += [_ratio(figure, to, value) for figure, each in whole["ratios"].items() for to, value in each.items()]
    rows += ["", "| one run at a time | gap p50 / p95 / p99 ms | trigger to first call p50 / p95 ms |", "|---|---|---|"]
    rows += [
        f"| {name} | {_times(each['gap_ms'], 50, 95, 99)} | {_times(each.get('trigger_to_first_call_ms'), 50, 95)} |"
        for name, each in whole["single"].items()
    ]
    rows += ["", "| burst | runs | runs/s | CPU ms a run | cores busy | gap p50 ms | peak PSS MiB |", "|---|---|---|---|---|---|---|"]
    rows += [_burst(name, count, each) for name, sizes in whole["burst"].items() for count, each in sizes.items()]
    rows += ["", "| alone | p50 / p95 ms |", "|---|---|"]
    rows += [f"| {name} | {_times(each, 50, 95)} |" for name, each in whole["alone_ms"].items()]
    idle = whole["idle_mib"]
    rows += ["", "Idle, PSS in MiB: " + ", ".join(f"{part} {size:.0f}" for part, size in idle.items()) + f"; together {sum(idle.values()):.0f}."]
    return "\n".join(rows)


def _ratio(figure: str, to: str, value: dict[str, float]) -> str:
    wanted = TARGETS.get((figure, to))
    said = target(value["median"], *wanted) if wanted else ""
    return f"| {figure} {to.replace('_', ' ')} | {spread(value)} | {said} |"


def _burst(name: str, count: str, each: dict[str, Any]) -> str:
    cpu = {key: 1000 * value for key, value in each["cpu_s_per_run"].items()}
    peak = f"{each['peak_mib']['median']:.0f}" if each["peak_mib"] else ""
    busy, gap = f"{each['busy_cores']['median']:.2f}", number(each["gap_ms"]["p50"])
    return f"| {name} | {count} | {spread(each['runs_per_s'])} | {spread(cpu)} | {busy} | {gap} | {peak} |"


def spread(value: dict[str, float]) -> str:
    """A median, with the least and the greatest."""
    return f"{number(value['median'])} ({number(value['min'])} to {number(value['max'])})"


def _times(value: dict[str, float] | None, *shares: int) -> str:
    return " / ".join(number(value[f"p{share}"]) for share in shares) if value else ""
