"""Several workers look for the same gaps: on a real ledger, what one has closed stays closed, and what nobody closes is taken up soon."""

from typing import Any

import asyncpg
import pytest

from streams.gaps import _CLOSE, _LEASE, _NOTE, LEASE

TOPIC = "training.validated"
STATE = "select state from gaps where topic = $1"


@pytest.fixture
async def ledger(ledger_dsn: str) -> Any:
    connection = await asyncpg.connect(ledger_dsn)
    await connection.execute("insert into offsets (topic, partition, next) values ($1, 0, 16)", TOPIC)
    yield connection
    await connection.close()


async def test_a_gap_that_another_worker_has_closed_is_not_opened_again_by_one_that_looked_before(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await ledger.execute(_CLOSE, TOPIC, 0, 16, 17, "reread")
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert await ledger.fetchval(STATE, TOPIC) == "reread"


async def test_a_gap_in_one_workers_hands_is_no_other_workers_until_its_lease_ends(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await ledger.execute(_NOTE, TOPIC, 0, 16, 19)
    assert await ledger.fetch(_LEASE, [TOPIC], LEASE) == []
    await ledger.execute("update gaps set lease_until = clock_timestamp() - interval '1 s'")
    [row] = await ledger.fetch(_LEASE, [TOPIC], LEASE)
    assert (row["first"], row["past"]) == (16, 19)
