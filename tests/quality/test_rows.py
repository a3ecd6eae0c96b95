"""A tenant's rows one by one: each row of the sample is there once, and what could not be looked at is never a row that holds."""

import asyncio
from datetime import timedelta

import pytest

from expectations import judge
from expectations.rows import sample, validate
from streams.cli import quality
from streams.cli.refusal import CliError
from streams.tenants import add_tenant
from tests.quality.data import NOW, TYPES, a_tenant, load, spoil

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]  # the library's own warnings


async def test_a_row_that_breaks_a_rule_is_no_duplicate_of_itself(tables, warehouse):
    await load(tables, spoil(a_tenant("dirty"), kinds=5, orphans=3, future=4))
    rows = await sample(warehouse, "dirty", TYPES, NOW, timedelta(minutes=5))
    assert len(rows) == 212
    broken = {finding.column: finding.broken for finding in validate(rows, TYPES) if finding.broken}
    assert broken == {"interaction_type": 5, "item_exists": 3, "in_time": 4}


async def test_many_of_one_kind_crowd_out_no_other_and_a_twin_is_found_however_old(tables, warehouse):
    rows = spoil(a_tenant("dirty", interactions=3000), orphans=1500)
    rows.user_interactions.append(rows.user_interactions[2900])
    await load(tables, spoil(rows, kinds=5, null_types=4, null_times=3))
    sampled = await sample(warehouse, "dirty", TYPES, NOW, timedelta(minutes=5))
    assert len(sampled) == 2000
    broken = {(finding.expectation.split("_to_")[1], finding.column): finding.broken for finding in validate(sampled, TYPES) if finding.broken}
    assert broken.pop(("be_in_set", "item_exists")) == 1000 - 5 - 4 - 3 - 2
    assert broken == {
        ("be_in_set", "interaction_type"): 5,
        ("not_be_null", "interaction_type"): 4,
        ("not_be_null", "timestamp"): 3,
        ("be_unique", "user_id, item_id, interaction_type, timestamp"): 2,
    }


@pytest.mark.parametrize(
    ("statement", "dsn", "code", "status"),
    [
        ("drop table items", None, "table_missing", 1),
        ("revoke select on users from tidemill_reader", None, "no_permission", 1),
        ("select 1", "postgresql://tidemill@127.0.0.1:1/nowhere", "warehouse_away", 3),
    ],
)
async def test_the_command_ends_with_the_code_of_what_is_in_the_way(world, tables, warehouse_dsn, monkeypatch, statement, dsn, code, status):
    await add_tenant(world.ledger, "acme", name=None, by="test")
    await tables.execute(statement)
    monkeypatch.setenv("TIDEMILL_LEDGER__DSN", world.dsn)
    monkeypatch.setenv("TIDEMILL_WAREHOUSE__DSN", dsn or warehouse_dsn)
    with pytest.raises(CliError) as ended:
        await asyncio.to_thread(quality.show, "acme", rows=True)
    assert (ended.value.code, ended.value.status) == (code, status)


def test_an_expectation_that_could_not_be_asked_is_an_error():
    judge.great_expectations_parts()
    row = {"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": NOW.isoformat(), "item_exists": True, "in_time": True}
    with pytest.raises(RuntimeError, match=r"in_set.*user_exists"):
        validate([row], TYPES)
