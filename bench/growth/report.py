"""What `scripts/bench growth` leaves behind: `bench/results/growth.json` and its table in `docs/performance.md`."""

from typing import Any

from bench.growth.crash import PATIENCE, WATCHED
from bench.report import measured, spread, target

FIGURES = {
    "runs_per_s": ("runs/s", ">=", 0.85),
    "gap_p50_ms": ("gap p50, one run at a time, ms", "<=", 1.15),
    "burst_gap_p50_ms": ("gap p50 in the burst, ms", "<=", 1.15),
    "cpu_ms_per_run": ("CPU ms a run", "", 0),
}
CRASHES = {"one_of_two": "one of two workers dies", "last_one_and_a_new_one": "the last one dies, and another is started at once"}


def table(whole: dict[str, Any]) -> str:
    full, less = whole["filled"], whole["emptier"]
    head = (
        f"Full: {full['finished_runs']:,} finished runs, {full['journal_rows']:,} journal rows, {full['mib']:,} MiB before the rounds; "
        f"empty: {less['finished_runs']:,} runs and {less['journal_rows']:,} rows after them. Bursts of {whole['burst']:,}, "
        f"{whole['full']['runs_per_s']['rounds']} rounds in turns."
    )
    rows = [measured(whole) + " " + head, "", "| figure | empty | full | full to empty | target |", "|---|---|---|---|---|"]
    for figure, (what, sign, wanted) in FIGURES.items():
        ratio = whole["full_to_empty"][figure]
        said = target(ratio["median"], sign, wanted) if sign else ""
        rows.append(f"| {what} | {spread(whole['empty'][figure])} | {spread(whole['full'][figure])} | {spread(ratio)} | {said} |")
    rows += ["", f"| crash with {whole['crash']['open_runs']:,} open runs | figure | target |", "|---|---|---|"]
    for name, what in CRASHES.items():
        each = whole["crash"][name]
        silence, back, left, again = each["longest_silence_s"], each["given_back_s"], each["left_behind"], each["again_in_time"]
        rows.append(f"| {what}: longest time without any stage call | {silence:g} s | {target(silence, '<=', PATIENCE, ' s')} |")
        rows.append(f"| {left} steps were left behind: given back after | {f'{back:g} s' if back else f'more than {WATCHED:g} s'} | |")
        rows.append(f"| worked on again within {PATIENCE:g} s, of these {left} | {again} | {target(again, '>=', left)} |")
    return "\n".join(rows)
