"""What `scripts/bench schedules` leaves behind: `bench/results/schedules.json` and its table in `docs/performance.md`."""

from typing import Any

from bench.report import measured, publish


def write(found: dict[str, Any], *, seconds: float) -> str:
    """Keep everything; gives the table."""
    return publish("schedules", found, table, seconds=seconds)


def table(whole: dict[str, Any]) -> str:
    """Each figure beside its target."""
    once, spread, idle, loud, weights = (whole[name] for name in ("at_once", "spread", "idle", "loud", "weights"))
    rows = [
        ("due in the same second: tenants asked, asked twice", f"{once['tenants']:,}, {once['twice']}", "10,000, 0", _all_once(once)),
        (
            "due in the same second: the last request in the ledger after",
            _of_all(once, "last_in_ledger_s"),
            "at most 5 s",
            once["last_in_ledger_s"] <= 5,
        ),
        ("due in the same second: the last request on Kafka after", _of_all(once, "last_s"), "at most 5 s", once["last_s"] <= 5),
        ("due in the same second: CPU until then", _cpu(once["cpu_s"]), "", None),
        (
            "spread, one of three workers killed: tenants asked, asked twice",
            f"{spread['tenants']:,}, {spread['twice']}",
            "10,000, 0",
            _all_once(spread),
        ),
        ("spread: lateness p50 / p99", f"{spread['p50_s']:g} / {spread['p99_s']:g} s", "p99 at most 1 s", spread["p99_s"] <= 1),
        (
            f"spread: the {spread['last_second_of_killed']} of the killed worker's last second, latest",
            f"{spread['last_second_of_killed_max_s']:g} s",
            "",
            None,
        ),
        ("10,000 schedules, none due: of a core", f"{idle['percent_of_a_core']:g} %", "under 1 %", idle["percent_of_a_core"] < 1),
        (
            "99 tenants beside 10,000 queued runs of one: p99 wait to that of an idle system",
            f"{loud['p99_ratio']:g} ({loud['beside_p99_ms']:g} to {loud['idle_p99_ms']:g} ms)",
            "at most 2",
            loud["p99_ratio"] <= 2,
        ),
        (
            "weights 1, 2, 5 over 1,000 dispatches: worst share off by",
            f"{weights['worst_percent']:g} %",
            "at most 5 %",
            weights["worst_percent"] <= 5,
        ),
    ]
    said = {True: ": met", False: ": missed", None: ""}
    made = [measured(whole), "", "| what | figure | target |", "|---|---|---|"]
    return "\n".join(made + [f"| {what} | {figure} | {target}{said[met]} |" for what, figure, target, met in rows])


def _of_all(once: dict[str, Any], name: str) -> str:
    """The middle one of the tries, and the span of all."""
    tries = once[f"{name}_of_all"]
    return f"{once[name]:g} s ({min(tries):g} to {max(tries):g})"


def _cpu(spent: dict[str, float]) -> str:
    """Who used the cores, those that share a job together."""
    jobs = (("workers", "worker"), ("PostgreSQL", "postgres"), ("Kafka", "kafka"), ("the reader", "reader"))
    return ", ".join(f"{name} {sum(seconds for part, seconds in spent.items() if part.startswith(begin)):.1f} s" for name, begin in jobs)


def _all_once(found: dict[str, Any]) -> bool:
    return bool(found["tenants"] == 10_000 and not found["twice"])
