"""Measuring counts exactly, in one snapshot, and one tenant's or one table's trouble costs the others nothing."""

import asyncio
import time
from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from expectations.profile import TOGETHER, Due, is_clean, measure, parameters, text, to_count_on
from expectations.warehouse import Warehouse
from tests.quality.data import NOW, TYPES, Rows, a_tenant, count, load, spoil, wild_tenant

TOLERANCE = timedelta(minutes=5)


def due(*tenants, **changes):
    return [Due(tenant, TYPES, **changes) for tenant in tenants]


async def look(warehouse, *tenants, now=NOW, **changes):
    return await measure(warehouse, due(*tenants, **changes), now, TOLERANCE)


def numbers(profile, like):
    return {name: profile.numbers[name] for name in like}


async def test_seeded_defects_are_counted_exactly(tables, warehouse):
    rows = a_tenant("healthy")
    dirty = spoil(a_tenant("dirty"), null_users=3, null_items=2, null_types=4, null_times=1, orphans=7, strangers=6, kinds=8, future=9, twins=5)
    rows += dirty
    await load(tables, rows)
    found = await look(warehouse, "healthy", "dirty")
    seen = found["dirty"].numbers
    seeded = {"null_user_id": 3, "null_item_id": 2, "null_interaction_type": 4, "null_timestamp": 1, "invalid": 8, "future": 9}
    assert {name: seen[f"user_interactions.{name}"] for name in seeded} == seeded
    assert (seen["orphan_items.count"], seen["orphan_users.count"], seen["duplicates.count"]) == (7, 6, 5)
    assert found["dirty"].details["user_interactions.invalid_types"] == {"teleport": 8}
    assert is_clean(found["healthy"])
    assert not is_clean(found["dirty"])


@pytest.mark.parametrize("seed", range(12))
async def test_what_nobody_planned_is_counted_as_python_counts_it(tables, warehouse, seed):
    rows = Rows()
    tenants = [f"wild-{n}" for n in range(8)]
    for n, tenant in enumerate(tenants):
        rows += wild_tenant(tenant, seed * 100 + n)
    await load(tables, rows)
    found = await look(warehouse, *tenants)
    known = {row[0] for row in rows.tenants}
    for tenant in tenants:
        expected = count(rows, tenant)
        assert numbers(found[tenant], expected) == pytest.approx(expected)
        assert found[tenant].known == (tenant in known)
        assert not found[tenant].troubles


async def test_new_rows_alone_give_the_same_numbers_as_everything(tables, warehouse):
    rows = a_tenant("acme")
    await load(tables, rows)
    before = (await look(warehouse, "acme"))["acme"]
    assert is_clean(before)
    state = to_count_on(before)
    later = NOW + timedelta(hours=6)
    young = Rows(
        users=[("u900", "acme", later), (None, "acme", later)],
        items=[("i900", "acme", None, None, later)],
        user_interactions=[
            ("u900", "i900", "view", later, "acme", later),
            ("u900", "i900", "view", later, "acme", later),
            (*rows.user_interactions[0][:5], later),  # twin of an old row
            ("u0", "lost", "hover", later - timedelta(seconds=9), "acme", later),
        ],
    )
    await load(tables, young)
    rows += young
    [profile] = (
        await measure(warehouse, [Due("acme", TYPES, since=datetime.fromisoformat(state["since"]), before=state["before"])], later, TOLERANCE)
    ).values()
    expected = count(rows, "acme", later)
    assert numbers(profile, expected) == pytest.approx(expected)
    assert not profile.whole
    assert expected["duplicates.count"] == 2


async def test_new_twins_without_a_time_are_counted_as_where_everything_is_read_and_found_through_the_index(tables, warehouse):
    rows = a_tenant("acme", interactions=5000)
    await load(tables, rows)
    state = to_count_on((await look(warehouse, "acme"))["acme"])
    young = Rows(user_interactions=[("u0", "i0", "view", None, "acme", NOW)] * 3 + [("u1", None, None, None, "acme", NOW)] * 2)
    await load(tables, young)
    await tables.execute("analyze")
    rows += young
    since = datetime.fromisoformat(state["since"])
    [profile] = (await look(warehouse, "acme", since=since, before=state["before"])).values()
    assert not profile.whole
    assert profile.numbers["duplicates.count"] == count(rows, "acme")["duplicates.count"] == 3
    [some] = [some for some in TOGETHER if some[0].name == "duplicates"]
    async with warehouse.snapshot() as connection:
        plan = await connection.fetch("explain " + text(some, incremental=True), *parameters([Due("acme", TYPES, since)], NOW, NOW, TOLERANCE))
    assert not [line[0] for line in plan if "Seq Scan on user_interactions" in line[0]]
    assert sum('"timestamp"' in line[0] and "Index Cond" in line[0] for line in plan) == 2


async def test_new_rows_without_a_time_of_their_own_are_seen_at_the_next_tick(tables, warehouse):
    rows = a_tenant("acme")
    await load(tables, rows)
    state = to_count_on((await look(warehouse, "acme"))["acme"])
    undated = Rows(user_interactions=[("u0", f"lost{n}", "teleport", NOW, "acme", None) for n in range(7)])
    await load(tables, undated)
    rows += undated
    [profile] = (await look(warehouse, "acme", since=datetime.fromisoformat(state["since"]), before=state["before"])).values()
    expected = count(rows, "acme")
    assert numbers(profile, expected) == pytest.approx(expected)
    assert expected["user_interactions.null_created_at"] == expected["user_interactions.invalid"] == 7
    assert profile.whole
    assert not is_clean(profile)


async def test_a_table_whose_rows_know_but_their_day_is_read_whole(tables, warehouse):
    await tables.execute("alter table user_interactions alter created_at type date")
    rows = a_tenant("acme")
    await tables.executemany("insert into user_interactions values ($1, $2, $3, $4, $5, $6)", rows.user_interactions)
    state = to_count_on((await look(warehouse, "acme"))["acme"])
    await tables.execute("insert into user_interactions values ('u0', 'i0', 'view', $1, 'acme', $2)", NOW, NOW.date())
    [profile] = (await look(warehouse, "acme", since=datetime.fromisoformat(state["since"]), before=state["before"])).values()
    assert profile.numbers["user_interactions.rows"] == 201
    assert profile.whole


@pytest.mark.parametrize(("tenants", "since"), [(1, None), (40, NOW)], ids=["one tenant", "new rows"])
async def test_what_little_is_asked_for_is_read_through_indexes(tables, warehouse, tenants, since):
    """However much lies there: neither a tenant asked for by hand nor a tick of clean tenants reads a table whole."""
    for n in range(40):
        await load(tables, a_tenant(f"t-{n:02}", interactions=1000, items=200, users=200))
    await tables.execute("analyze")
    asked = parameters([Due(f"t-{n:02}", TYPES, since) for n in range(tenants)], NOW, NOW, TOLERANCE)
    async with warehouse.snapshot() as connection:
        for some in TOGETHER:
            plan = await connection.fetch("explain analyze " + text(some, incremental=since is not None and some[0].incremental), *asked)
            whole = [line[0] for line in plan if "Seq Scan on user_interactions" in line[0] and "never executed" not in line[0]]
            assert not whole, some[0].name


async def test_everything_of_many_tenants_takes_one_reading_of_the_table(tables, warehouse):
    """Everybody's rows lie mixed in it: each reading more would cost every chunk of tenants the whole table again."""
    for n in range(40):
        await load(tables, a_tenant(f"t-{n:02}", interactions=500))
    await tables.execute("analyze")
    asked = parameters(due(*(f"t-{n:02}" for n in range(40))), NOW, NOW, TOLERANCE)
    async with warehouse.snapshot() as connection:
        plans = [await connection.fetch("explain " + text(some, incremental=False), *asked) for some in TOGETHER]
    assert sum("Seq Scan on user_interactions" in line[0] for plan in plans for line in plan) == 1


async def test_an_empty_tenant_has_no_age_and_one_nobody_knows_is_not_watched(tables, warehouse):
    await load(tables, Rows(tenants=[("empty", None)]))
    found = await look(warehouse, "empty", "stranger")
    assert found["empty"].watched
    assert found["empty"].numbers["user_interactions.age"] is None
    assert found["empty"].numbers["user_interactions.rows"] == 0
    assert not found["stranger"].watched


async def test_items_of_a_tenant_without_an_entry_are_watched_all_the_same(tables, warehouse):
    rows = a_tenant("orphan")
    rows.tenants = []
    await load(tables, rows)
    [profile] = (await look(warehouse, "orphan")).values()
    assert profile.watched
    assert profile.known is False


@pytest.mark.parametrize("table", ["tenants", "users", "items", "user_interactions"])
async def test_the_gate_knows_whom_the_measuring_watches_from_an_entry_or_rows_in_any_table(tables, warehouse, table):
    rows = a_tenant("acme")
    await load(tables, Rows(**{table: getattr(rows, table)}))
    assert await warehouse.knows("acme")
    assert not await warehouse.knows("stranger")


@pytest.mark.parametrize("statement", ["drop table tenants", "revoke select on users from tidemill_reader", "alter table items drop tenant_id"])
async def test_where_the_gate_cannot_ask_it_takes_the_tenant_for_watched_as_the_measuring_does(tables, warehouse, statement):
    await tables.execute(statement)
    assert (await look(warehouse, "acme"))["acme"].watched
    assert await warehouse.knows("acme")


@pytest.mark.parametrize(
    ("statement", "code", "table"),
    [
        ("drop table items", "table_missing", "items"),
        ("alter table items drop column content", "column_missing", "items"),
        ('alter table user_interactions alter column "timestamp" type text', "column_type", "user_interactions"),
        ("revoke select on users from tidemill_reader", "no_permission", "users"),
    ],
)
async def test_a_broken_table_is_named_and_the_others_are_measured(tables, warehouse, statement, code, table):
    await load(tables, a_tenant("acme"))
    await tables.execute(statement)
    [profile] = (await look(warehouse, "acme")).values()
    touched = {why.code for name, why in profile.troubles.items() if name.startswith(table[:5])}
    assert touched == {code}
    untouched = {"users", "items", "user_interactions"} - {table}
    assert all(profile.numbers[f"{name}.rows"] for name in untouched)
    assert profile.watched


async def test_no_warehouse_tables_at_all_means_that_nobody_is_watched(tables, warehouse):
    await tables.execute("drop table tenants, users, items, user_interactions, model_training_runs")
    [profile] = (await look(warehouse, "acme")).values()
    assert not profile.watched
    assert await warehouse.knows("acme") is False


async def test_a_lock_held_all_the_time_costs_one_wait_and_one_table(tables, warehouse):
    await load(tables, a_tenant("acme"))
    async with tables.transaction():
        await tables.execute("lock table user_interactions in access exclusive mode")
        began = time.monotonic()
        found = await look(warehouse, "acme", "other")
        assert time.monotonic() - began < 5
    assert found["acme"].troubles["user_interactions"].code == "table_locked"
    assert found["acme"].numbers["items.rows"] == 20
    assert "items" not in found["acme"].troubles


async def test_a_tenant_whose_rows_hang_fails_alone(tables, warehouse_dsn):
    tenants = [f"t-{n:02}" for n in range(16)]
    for tenant in tenants:
        await load(tables, a_tenant(tenant, interactions=20))
    await tables.execute(
        """
        alter table items rename to items_kept;
        create function slow(t text) returns boolean language plpgsql cost 1000000 as
            $$ begin if t = 't-05' then perform pg_sleep(20); end if; return true; end $$;
        create view items as select * from items_kept where slow(tenant_id);
        grant select on items to tidemill_reader;
        grant select on items_kept to tidemill_reader;
        """
    )
    warehouse = Warehouse(warehouse_dsn, role="tidemill_reader", statement_timeout=1.0, least_timeout=0.5)
    found = await look(warehouse, *tenants)
    assert found["t-05"].troubles["items"].code == "measure_timeout"
    assert {"items", "orphan_items"} <= set(found["t-05"].troubles) <= {"items", "items_newest", "orphan_items"}
    told = {name: found["t-05"].numbers[name] for name in ("user_interactions.rows", "orphan_users.count", "duplicates.count")}
    assert told == {"user_interactions.rows": 20, "orphan_users.count": 0, "duplicates.count": 0}
    others = [found[tenant] for tenant in tenants if tenant != "t-05"]
    assert all(not profile.troubles and profile.numbers["items.rows"] == 20 for profile in others)


async def test_a_server_that_goes_away_in_the_middle_leaves_what_was_measured(tables, warehouse, platform):
    await load(tables, a_tenant("acme"))
    blocker = await asyncpg.connect(platform["postgres"])
    async with tables.transaction():
        await tables.execute("lock table user_interactions in access exclusive mode")
        patient = Warehouse(warehouse.dsn, role="tidemill_reader", lock_timeout=30)
        looking = asyncio.create_task(look(patient, "acme"))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if await blocker.fetchval(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tidemill-quality' and wait_event_type = 'Lock'"
            ):
                break
        found = await looking
    await blocker.close()
    profile = found["acme"]
    assert profile.numbers["items.rows"] == 20
    assert profile.troubles["user_interactions"].code == "warehouse_away"
    assert profile.watched


async def test_a_warehouse_that_cannot_be_reached_is_named(warehouse_dsn):
    nowhere = Warehouse("postgresql://tidemill@127.0.0.1:1/nowhere")
    [profile] = (await look(nowhere, "acme")).values()
    assert {why.code for why in profile.troubles.values()} == {"warehouse_away"}


async def test_a_role_that_is_not_there_is_named(warehouse_dsn):
    [profile] = (await look(Warehouse(warehouse_dsn, role="nobody_at_all"), "acme")).values()
    assert {why.code for why in profile.troubles.values()} == {"no_permission"}


async def test_times_without_a_zone_count_as_utc_and_extreme_ones_do_no_harm(tables, warehouse):
    await tables.execute('alter table user_interactions alter column "timestamp" type timestamp')
    rows = a_tenant("acme", interactions=0)
    for at in (datetime(1, 1, 1), datetime(9999, 12, 31), NOW.replace(tzinfo=None) - timedelta(hours=2)):  # noqa: DTZ001
        rows.user_interactions.append(("u0", "i0", "view", at, "acme", NOW))
    await load(tables, rows)
    await tables.execute("insert into user_interactions values ('u0', 'i0', 'like', 'infinity', 'acme'), ('u0', 'i0', 'like', '-infinity', 'acme')")
    [profile] = (await look(warehouse, "acme")).values()
    assert profile.numbers["user_interactions.age"] == pytest.approx(7200)
    assert profile.numbers["user_interactions.future"] == 2
    assert not profile.troubles


async def test_tenant_ids_are_data_and_never_text(tables, warehouse):
    await load(tables, a_tenant("acme"))
    hostile = "x'; drop table tenants; --"
    found = await look(warehouse, hostile, "acme")
    assert found[hostile].numbers["items.rows"] == 0
    assert found["acme"].numbers["items.rows"] == 20


async def test_the_reading_role_cannot_write(warehouse):
    async with warehouse.snapshot() as connection:
        await warehouse.become_reader(connection)
        with pytest.raises(asyncpg.PostgresError, match="read-only"):
            async with connection.transaction():
                await connection.execute("delete from items")
    connection = await warehouse.connect()
    await connection.execute("set default_transaction_read_only = off")
    async with connection.transaction():
        await warehouse.become_reader(connection)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.execute("delete from items")
    await connection.close()


async def test_where_there_are_neither_tables_nor_roles_nobody_is_watched(tables, warehouse_dsn):
    await tables.execute("drop table tenants, users, items, user_interactions, model_training_runs")
    [profile] = (await look(Warehouse(warehouse_dsn, role="nobody_at_all"), "acme")).values()
    assert not profile.watched


async def test_a_training_that_ends_in_the_future_is_not_the_newest(tables, warehouse):
    rows = a_tenant("acme")
    rows.model_training_runs.append((uuid4(), "acme", "succeeded", NOW + timedelta(days=30)))
    await load(tables, rows)
    assert (await look(warehouse, "acme"))["acme"].numbers["model_training_runs.age"] == pytest.approx(3 * 3600)


async def test_ids_that_the_warehouse_pads_with_blanks_are_the_tenants_all_the_same(tables, warehouse):
    await load(tables, a_tenant("acme"))
    for table in ("users", "items", "user_interactions", "model_training_runs"):
        await tables.execute(f"alter table {table} alter tenant_id type char(20)")
    [profile] = (await look(warehouse, "acme")).values()
    told = {name: profile.numbers[name] for name in ("users.rows", "items.rows", "user_interactions.rows", "orphan_items.count")}
    assert told == {"users.rows": 15, "items.rows": 20, "user_interactions.rows": 200, "orphan_items.count": 0}
    assert not profile.troubles
