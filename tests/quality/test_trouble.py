"""What PostgreSQL refuses is told apart: the database that is away, and the statement that was too much for it."""

import asyncpg
import pytest

from expectations.trouble import is_away, trouble


@pytest.mark.parametrize("error", [asyncpg.ConfigurationLimitExceededError, asyncpg.DiskFullError, asyncpg.OutOfMemoryError])
def test_a_statement_that_takes_too_much_is_narrowed_down_and_not_an_outage(error):
    assert not is_away(error("enough"))
    why = trouble(error("enough"), "items")
    assert (why.code, why.of_one) == ("no_resources", True)


def test_too_many_connections_are_an_outage():
    assert is_away(asyncpg.TooManyConnectionsError("full"))
