"""A tenant's rows one by one: each row of the sample is there once, and what could not be looked at is never a row that holds."""

from datetime import timedelta

import pytest

from expectations import judge
from expectations.rows import sample, validate
from tests.quality.data import NOW, TYPES, a_tenant, load, spoil

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]  # the library's own warnings


async def test_a_row_that_breaks_a_rule_is_no_duplicate_of_itself(tables, warehouse):
    await load(tables, spoil(a_tenant("dirty"), kinds=5, orphans=3, future=4))
    rows = await sample(warehouse, "dirty", TYPES, NOW, timedelta(minutes=5))
    assert len(rows) == 212
    broken = {finding.column: finding.broken for finding in validate(rows, TYPES) if finding.broken}
    assert broken == {"interaction_type": 5, "item_exists": 3, "in_time": 4}


def test_an_expectation_that_could_not_be_asked_is_an_error():
    judge.great_expectations_parts()
    row = {"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": NOW.isoformat(), "item_exists": True, "in_time": True}
    with pytest.raises(RuntimeError, match=r"in_set.*user_exists"):
        validate([row], TYPES)
