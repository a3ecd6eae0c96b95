"""What `scripts/bench quality` leaves: JSON beside the other results, and its table in `docs/performance.md`."""

from typing import Any

from bench.report import publish, target


def write(found: dict[str, Any], *, seconds: float) -> str:
    """Keep everything; gives the table."""
    return publish("quality", found | {"ratios": ratios(found)}, table, seconds=seconds, marker="bench quality")


def ratios(found: dict[str, Any]) -> dict[str, float]:
    full, calm, busy = found["full"]["seconds"], found["hand_over_ms"]["calm"], found["hand_over_ms"]["during_a_tick"]
    made = {
        "full_to_bare_sql": full / sum(found["bare_sql_s"].values()),
        "plain_to_full": found["plain_s_a_tenant"]["median"] * found["tenants"] / full,
        "memory_full_to_few": found["full"]["worker_and_pool_mib"] / max(found["few"]["worker_and_pool_mib"], 1e-9),
        "hand_over_p99_during_to_calm": busy["p99"] / calm["p99"],
        "new_rows_to_full": found["scheduled_new_rows"]["seconds"] / full,
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
    rows = [
        ("full tick, first record to last verdict", f"{full:.1f} s", target(full, "<=", 60, " s")),
        ("beside the profile's SQL alone", f"{ratio['full_to_bare_sql']:.2f} times its {bare:.1f} s", target(ratio["full_to_bare_sql"], "<=", 2)),
        (
            f"the plain way, {plain['rounds']} tenants measured, times {whole['tenants']:,}",
            f"{plain['median']:.2f} s a tenant, {ratio['plain_to_full']:.0f} times a full tick",
            target(ratio["plain_to_full"], ">=", 100),
        ),
        ("worker and judge, greatest PSS", mib, ""),
        ("scheduled tick, nothing new", f"{whole['scheduled_nothing_new']['seconds']:.1f} s", ""),
        (f"scheduled tick after {whole['new_rows']:,} new rows", f"{whole['scheduled_new_rows']['seconds']:.1f} s", ""),
        ("stage hand-overs beside a tick, p99", f"{busy['p99']:.1f} ms, without {calm['p99']:.1f} ms", beside),
    ]  # fmt: skip
    return "\n".join([head, "", "| figure | measured | target |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])
