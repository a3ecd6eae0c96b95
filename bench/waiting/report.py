"""What `scripts/bench wait` leaves behind: `bench/results/wait.json` and its table in `docs/performance.md`."""

from typing import Any

from bench.plot import number
from bench.report import measured, target

FLAT = 2.0
"""MiB that a worker's memory may move while nothing changes: the last third of the time to the first."""


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """What is held against a target."""
    more = {
        "idle_tenants_percent": found["idle_many"]["together"] - found["idle_few"]["together"],
        "waiting_percent": found["called_back"]["together"] - found["idle_many"]["together"],
        "polls_due": round(0.9 * found["begun"]["runs"] / 60),  # once a minute, and up to 10 % later each time
    }
    return found | {name: round(value, 2) for name, value in more.items()}


def table(whole: dict[str, Any]) -> str:
    """Each state of rest with what it costs, then what was wanted."""
    runs, asked = whole["begun"]["runs"], whole["asked_after"]
    states = (
        (f"{whole['few']} idle tenants", whole["idle_few"]),
        (f"{runs:,} idle tenants", whole["idle_many"]),
        (f"{runs:,} runs wait, the engine calls back", whole["called_back"]),
        (f"{runs:,} runs wait, each is asked after once a minute", asked),
    )
    rows = [measured(whole), "", "| % of a core | worker | PostgreSQL | Kafka | worker's PSS, MiB | it grew by |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {what} | {number(each['worker'])} | {number(each['postgres'])} | {number(each['kafka'])} | {each['mib']:.0f} | {each['mib_grown']:+.1f} |"
        for what, each in states
    ]
    flat = max(whole["called_back"]["mib_grown"], asked["mib_grown"])
    idle, waits = whole["idle_tenants_percent"], whole["waiting_percent"]
    rows += ["", "| what | figure | target |", "|---|---|---|"]
    rows += [
        f"| {runs:,} idle tenants more than {whole['few']}, worker and PostgreSQL | {idle:+.2f} % of a core | {target(idle, '<=', 1, ' %')} |",
        f"| {runs:,} waiting runs more than none, the engine calls back | {waits:+.2f} % of a core | {target(waits, '<=', 5, ' %')} |",
        f"| polls a second, nobody calls back | {asked['polls_a_second']:g} | {target(asked['polls_a_second'], '>=', whole['polls_due'])} |",
        f"| memory while they wait, greatest growth | {flat:+.1f} MiB | {target(flat, '<=', FLAT, ' MiB')} |",
        f"| from a request to a job that is waited for | {whole['begun']['a_second']:g} runs/s | |",
        f"| all are called back at once | {whole['completed']['a_second']:g} runs/s | |",
    ]
    return "\n".join(rows)
