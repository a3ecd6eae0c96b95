"""Slow tenants cost the others a small multiple of the statement timeout, and are told as such."""

import time
from datetime import timedelta

import pytest

from expectations.profile import Due, measure
from expectations.warehouse import Warehouse
from tests.quality.data import NOW, TYPES, a_tenant, load

TOLERANCE = timedelta(minutes=5)
HANGING = """
alter table items rename to items_kept;
create function slow(t text) returns boolean language plpgsql cost 1000000 as
    $$ begin if t like 'slow%' then perform pg_sleep(20); end if; return true; end $$;
create view items as select * from items_kept where slow(tenant_id);
grant select on items, items_kept to tidemill_reader;
"""


@pytest.mark.parametrize("known", [False, True], ids=["not known yet", "known to be slow"])
async def test_hanging_tenants_cost_the_others_a_few_statement_timeouts(tables, warehouse_dsn, known):
    slow, quick = [f"slow-{n}" for n in range(2 + 4 * known)], [f"quick-{n}" for n in range(12)]
    for tenant in (*slow, *quick):
        await load(tables, a_tenant(tenant, interactions=20))
    await tables.execute(HANGING)
    warehouse = Warehouse(warehouse_dsn, role="tidemill_reader", statement_timeout=2.0, least_timeout=0.5)
    began = time.monotonic()
    found = await measure(warehouse, [*(Due(t, TYPES, alone=known) for t in slow), *(Due(t, TYPES) for t in quick)], NOW, TOLERANCE)
    assert time.monotonic() - began < 10 * warehouse.statement_timeout
    assert all(not found[tenant].troubles and found[tenant].numbers["items.rows"] == 20 for tenant in quick)
    assert {found[tenant].troubles["items"].code for tenant in slow} == {"measure_timeout"}


async def test_when_the_time_is_over_what_was_not_read_is_named(tables, warehouse):
    await load(tables, a_tenant("acme"))
    [profile] = (await measure(warehouse, [Due("acme", TYPES)], NOW, TOLERANCE, timedelta(0))).values()
    assert profile.watched
    assert {why.code for why in profile.troubles.values()} == {"measure_late"}
