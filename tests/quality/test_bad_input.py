"""Whatever lies in the warehouse, or is missing there, every tick ends in a verdict with a named code, and what it does not touch is judged."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.fakes import FakeMonitoring
from tests.quality.data import NOW, Rows, a_tenant, load, spoil
from tests.quality.world import World, open_world

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings

MANY = 100_000
"""Rows of a great tenant, scaled down for the tests; `scripts/bench quality` has one with five million."""
STOP_WHO_WAITS = """
select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tidemill-quality' and wait_event_type = 'Lock'
"""


@pytest.fixture
async def world(ledger_dsn: str, warehouse_dsn: str) -> AsyncIterator[Any]:
    async with open_world(World(ledger_dsn, warehouse_dsn, FakeMonitoring(), lock_timeout=20)) as world:
        yield world


async def judged(world: Any, *tenants: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """A tick: each tenant's verdict and its findings by check."""
    await world.tick(*tenants)
    found = {tenant: await world.reader.tenant(tenant) for tenant in tenants}
    return {tenant: (each["verdict"], {finding["check"]: finding for finding in each["checks"]}) for tenant, each in found.items()}


def bad(findings: dict[str, Any]) -> set[str]:
    return {name for name, finding in findings.items() if finding["status"] == "fail"}


def defective() -> Rows:
    """A tenant with a defect in two tables."""
    rows = spoil(a_tenant("defective"), kinds=50)
    rows.items += [(f"empty{n}", "defective", None, None, NOW) for n in range(10)]
    return rows


@pytest.mark.parametrize(
    ("statement", "verdict", "code", "still_judged"),
    [
        ("drop table items", "fail", "table_missing", "user_interactions.types"),
        ("alter table items drop column created_at", "fail", "column_missing", "user_interactions.types"),
        ("alter table user_interactions alter interaction_type type bytea using convert_to(interaction_type, 'UTF8')", "fail", "column_type",
         "items.content.complete"),
        ("alter table items alter created_at type text", "fail", "column_type", "user_interactions.types"),
        ("revoke select on items from tidemill_reader", "error", "no_permission", "user_interactions.types"),
        ("alter table users rename to people; create view users as select p.* from people p where 1 / (select 0) = 1; "
         "grant select on users to tidemill_reader", "error", "bad_values", "user_interactions.types"),
        ("drop table model_training_runs", "warn", "table_missing", "user_interactions.types"),
        ("alter table model_training_runs alter completed_at type text", "warn", "column_type", "user_interactions.types"),
        ("revoke select on model_training_runs from tidemill_reader", "warn", "no_permission", "user_interactions.types"),
    ],
    ids=["missing table", "missing column", "wrong type", "time as text", "no permission", "a view that fails", "no runs", "runs of a wrong type",
         "runs that may not be read"],
)  # fmt: skip
async def test_a_broken_table_is_a_verdict_with_a_code_and_the_other_tables_are_judged(world, tables, statement, verdict, code, still_judged):
    await load(tables, a_tenant("sound"))
    await load(tables, defective())
    await tables.execute(statement)
    found = await judged(world, "sound", "defective")
    for tenant in found:
        assert code in {finding.get("code") for finding in found[tenant][1].values()}
    assert found["sound"][0] == verdict
    assert still_judged not in bad(found["sound"][1])
    assert still_judged in bad(found["defective"][1])


async def test_postgresql_that_goes_away_in_the_middle_is_an_error_with_what_was_measured_and_the_next_tick_is_whole(world, tables, warehouse_dsn):
    await load(tables, a_tenant("sound"))
    await load(tables, defective())
    other = await asyncpg.connect(warehouse_dsn)
    async with tables.transaction():
        await tables.execute("lock table user_interactions in access exclusive mode")
        ticking = asyncio.create_task(judged(world, "sound", "defective"))
        while not ticking.done():
            await other.execute(STOP_WHO_WAITS)
            await asyncio.sleep(0.05)
        found = ticking.result()
    await other.close()
    for tenant in ("sound", "defective"):
        assert found[tenant][1]["measurement"]["code"] == "warehouse_away"
    assert found["sound"][0] == "error"
    assert bad(found["defective"][1]) == {"items.content.complete"}
    again = await judged(world, "sound", "defective")
    assert (again["sound"][0], again["defective"][0]) == ("pass", "fail")


async def test_times_of_all_zones_are_moments_whatever_zone_the_server_keeps(world, tables, warehouse_dsn):
    name = warehouse_dsn.rsplit("/", 1)[1]
    await tables.execute(f"alter database {name} set timezone = 'Asia/Kolkata'")
    await load(tables, a_tenant("sound", interactions=0))
    hour_ago = NOW - timedelta(hours=1)
    for n, zone in enumerate(("+14:00", "-12:00", "Europe/Berlin", "America/St_Johns", "+05:45")):
        same = await tables.fetchval("select ($1::timestamptz at time zone $2)::text || ' ' || $3", hour_ago, *_zone(zone))
        await tables.execute("insert into user_interactions values ($1, 'i0', 'view', $2::text::timestamptz, 'sound', $3)", f"u{n}", same, hour_ago)
    verdict, findings = (await judged(world, "sound"))["sound"]
    assert (verdict, findings["user_interactions.future"]["count"]) == ("pass", 0)
    assert findings["user_interactions.fresh"]["value"] == pytest.approx(1, abs=0.05)
    await tables.execute("alter table user_interactions alter timestamp type timestamp using timestamp at time zone 'UTC'")
    _, findings = (await judged(world, "sound"))["sound"]
    assert findings["user_interactions.fresh"]["value"] == pytest.approx(1, abs=0.05)


async def test_the_years_1_and_9999_and_infinite_times_are_judged_like_any_others(world, tables):
    await load(tables, a_tenant("sound"))
    for tenant, *times in (("ancient", "0001-01-01 00:00+00"), ("distant", "9999-12-31 23:59+00"), ("endless", "infinity", "-infinity")):
        await load(tables, a_tenant(tenant, interactions=0))
        await tables.execute(
            "insert into user_interactions select 'u0', 'i0', 'view', at::timestamptz, $1, $2 from unnest($3::text[]) at", tenant, NOW, times
        )
    found = await judged(world, "ancient", "distant", "endless", "sound")
    assert {tenant: verdict for tenant, (verdict, _) in found.items()} == {
        "ancient": "fail", "distant": "fail", "endless": "fail", "sound": "pass",
    }  # fmt: skip
    assert bad(found["ancient"][1]) == {"user_interactions.fresh"}
    assert found["ancient"][1]["user_interactions.fresh"]["value"] == pytest.approx(2025 * 8766, rel=0.001)
    assert bad(found["distant"][1]) == {"user_interactions.fresh", "user_interactions.future"}
    assert found["distant"][1]["user_interactions.fresh"]["value"] is None
    assert found["endless"][1]["user_interactions.future"]["count"] == 1


async def test_numbers_that_are_none_in_metadata_spoil_nothing(world, tables):
    await tables.execute("alter table items alter metadata type text")
    rows = a_tenant("sound")
    rows.items = [
        (item, tenant, content, ("NaN", '{"price": NaN}', '{"price": -Infinity}', '{"price": 1e999}', "{", "")[n % 6], at)
        for n, (item, tenant, content, _, at) in enumerate(rows.items)
    ]
    await load(tables, rows)
    verdict, findings = (await judged(world, "sound"))["sound"]
    assert (verdict, bad(findings), findings["items.content.complete"]["of"]) == ("pass", set(), 20)


async def test_a_great_tenant_beside_small_ones_is_counted_exactly_and_costs_them_nothing(world, tables):
    small = [f"small-{n:02}" for n in range(20)]
    for tenant in small:
        await load(tables, a_tenant(tenant, interactions=20))
    await load(tables, a_tenant("great", interactions=0))
    await tables.execute(
        "insert into user_interactions select 'u' || n % 15, 'i' || n % 20, case when n % 1000 = 0 then 'teleport' else 'view' end, "
        "$1::timestamptz - n * interval '1 s', 'great', $1 from generate_series(1, $2::int) n", NOW, MANY
    )  # fmt: skip
    found = await judged(world, "great", *small)
    finding = found["great"][1]["user_interactions.types"]
    assert (finding["count"], finding["of"], finding["severity"], found["great"][0]) == (MANY // 1000, MANY, "medium", "warn")
    assert {found[tenant][0] for tenant in small} == {"pass"}


def _zone(zone: str) -> tuple[str, str]:
    """A zone as `at time zone` takes it (where an offset's sign is turned round), and as it stands behind a time."""
    if zone[0] not in "+-":
        return zone, zone
    return ("-" if zone[0] == "+" else "+") + zone[1:], zone
