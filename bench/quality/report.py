"""What `scripts/bench quality` leaves: JSON beside the other results, and its table in `docs/performance.md`."""

from typing import Any

from bench.report import publish, target

FLAT = 1.25
"""Times the memory of a small tick that a full one may take."""
TICKS_A_DAY = 4
"""By the schedule that ships; one of them reads everything (`quality.full_every`), the others what is new."""


def write(found: dict[str, Any], *, seconds: float, kept: bool) -> str:
    """The table; `kept`: in `docs/performance.md` too, and everything in `bench/results/`."""
    return publish("quality", found | {"ratios": ratios(found)}, table, seconds=seconds, marker="bench quality", kept=kept)


def ratios(found: dict[str, Any]) -> dict[str, float]:
    full, calm, busy = found["full"]["seconds"], found["hand_over_ms"]["calm"], found["hand_over_ms"]["during_a_tick"]
    plain, scheduled = found["plain_s_a_tenant"]["median"] * found["tenants"], found["scheduled"][1]["seconds"]
    made = {
        "full_to_bare_sql": full / sum(found["bare_sql_s"].values()),
        "plain_to_full": plain / full,
        "plain_to_scheduled": plain / scheduled,
        "plain_to_day": TICKS_A_DAY * plain / (full + (TICKS_A_DAY - 1) * scheduled),
        "memory_full_to_few": found["full"]["worker_and_pool_mib"] / max(found["few"]["worker_and_pool_mib"], 1e-9),
        "hand_over_p99_during_to_calm": busy["p99"] / calm["p99"],
        "scheduled_to_full": scheduled / full,
    }
    return {name: round(value, 2) for name, value in made.items()}


def table(whole: dict[str, Any]) -> str:
    """Each figure beside its target."""
    ratio, full, bare = whole["ratios"], whole["full"]["seconds"], sum(whole["bare_sql_s"].values())
    plain, few, calm = whole["plain_s_a_tenant"], whole["few"], whole["hand_over_ms"]["calm"]
    busy, load = whole["hand_over_ms"]["during_a_tick"], whole["machine"]["load"][0]
    head = (
        f"Measured {whole['at'][:10]}: {whole['tenants']:,} tenants, {whole['rows']:,} interactions, {whole['machine']['cores']} cores, load {load}."
    )
    beside = target(ratio["hand_over_p99_during_to_calm"], "<=", 2, " times")
    mib = f"{few['worker_and_pool_mib']:.0f} MiB at {few['tenants']} tenants, {whole['full']['worker_and_pool_mib']:.0f} MiB at {whole['tenants']:,}"
    giant = whole["giant"]
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(giant["verdicts"].items()))
    rows = [
        ("full tick, first record to last verdict", f"{full:.1f} s", target(full, "<=", 60, " s")),
        ("beside the profile's SQL alone", f"{ratio['full_to_bare_sql']:.2f} times its {bare:.1f} s", target(ratio["full_to_bare_sql"], "<=", 2)),
        (
            f"the plain way, {plain['rounds']} tenants measured, times {whole['tenants']:,}, beside a scheduled tick with 10,000 new rows",
            f"{plain['median']:.2f} s a tenant: {ratio['plain_to_scheduled']:.0f} times",
            target(ratio["plain_to_scheduled"], ">=", 100, " times"),
        ),
        ("the same beside a full tick; beside a day's four", f"{ratio['plain_to_full']:.0f} times; {ratio['plain_to_day']:.0f} times", ""),
        ("worker and judge, greatest PSS", mib, target(ratio["memory_full_to_few"], "<=", FLAT, " times")),
        ("stage hand-overs beside a tick, p99", f"{busy['p99']:.1f} ms, without {calm['p99']:.1f} ms", beside),
        *((f"scheduled tick, {each['new_rows']:,} new rows", _scheduled(each), "") for each in whole["scheduled"]),
        ("first verdict of a worker, the import of Great Expectations included", f"{whole['first_verdict']['seconds']:.1f} s", ""),
        (f"one tenant with {giant['rows']:,} rows beside {giant['beside']} small ones", f"{giant['seconds']:.1f} s: {told}", ""),
    ]  # fmt: skip
    return "\n".join([head, "", "| figure | measured | target |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def _scheduled(each: dict[str, Any]) -> str:
    return f"{each['seconds']:.1f} s" + (f", its SQL alone {each['bare_sql_s']:.1f} s" if "bare_sql_s" in each else "")
