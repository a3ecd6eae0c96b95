"""What a batch of the ledger's calls does when the connection, not an item, is the trouble."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from streams.ledger.connection import Connection, is_outage
from streams.ledger.groupcommit import FEW, PATIENCE, GroupCommit


@pytest.mark.parametrize(
    "trouble",
    [asyncpg.InternalClientError("got result for unknown protocol state"), asyncpg.ConnectionDoesNotExistError("gone"), ConnectionResetError()],
    ids=lambda trouble: type(trouble).__name__,
)
async def test_a_connection_that_breaks_in_the_middle_of_an_answer_costs_no_item(trouble: Exception, ledger_dsn: str) -> None:
    troubles = [trouble]

    async def send(connection: Connection, items: Sequence[dict[str, Any]]) -> list[Any]:
        found = await connection.value("select count(*) from tenants")
        if troubles:
            raise troubles.pop()
        return [found for _ in items]

    commit = GroupCommit([connection := Connection(ledger_dsn)], send)
    commit.start()
    assert await commit.submit({"tenant": "acme"}) == 0
    await commit.stop()
    await connection.close()


async def test_a_lane_that_finds_nothing_left_sends_nothing(ledger_dsn: str) -> None:
    sent: list[int] = []

    async def send(connection: Connection, items: Sequence[dict[str, Any]]) -> list[Any]:
        sent.append(len(items))
        return [await connection.value("select 1")] * len(items)

    commit = GroupCommit(connections := [Connection(ledger_dsn), Connection(ledger_dsn)], send)
    commit.start()
    for most in (6, 3, 1) * 20:
        await asyncio.gather(*(commit.submit({"tenant": "acme"}) for _ in range(most)))
    await commit.stop()
    for connection in connections:
        await connection.close()
    assert sum(sent) == 200
    assert 0 not in sent


async def test_a_single_call_does_not_wait_for_another_and_a_crowd_shares_a_statement() -> None:
    sent: list[int] = []
    answered = asyncio.Event()

    async def send(_: Connection, items: Sequence[dict[str, Any]]) -> list[Any]:
        sent.append(len(items))
        await answered.wait()
        return [None] * len(items)

    commit = GroupCommit([Connection(""), Connection("")], send)
    commit.start()
    first = asyncio.create_task(commit.submit({"tenant": "acme"}))
    await asyncio.sleep(0)
    second = [asyncio.create_task(commit.submit({"tenant": f"t-{n}"})) for n in range(FEW)]
    await until(lambda: sent == [1, FEW])
    third = [asyncio.create_task(commit.submit({"tenant": f"t-{n}"})) for n in range(5)]
    answered.set()
    await asyncio.gather(first, *second, *third)
    assert sent == [1, FEW, 5]

    answered.clear()
    sent.clear()
    crowd = [asyncio.create_task(commit.submit({"tenant": f"t-{n}"})) for n in range(FEW + 1)]
    await until(lambda: sent == [FEW + 1])
    late = asyncio.create_task(commit.submit({"tenant": "acme"}))
    await asyncio.sleep(0.05)
    assert sent == [FEW + 1]  # the other lane is free, and waits to share what comes next
    answered.set()
    await asyncio.gather(*crowd, late)
    await commit.stop()


async def test_a_batch_that_is_stuck_keeps_nobody_else_waiting() -> None:
    released, stuck = asyncio.Event(), list[Sequence[dict[str, Any]]]()

    async def send(_: Connection, items: Sequence[dict[str, Any]]) -> list[Any]:
        if any(item["tenant"].startswith("locked") for item in items):
            stuck.append(items)
            await released.wait()
        return [None] * len(items)

    commit = GroupCommit([Connection(""), Connection("")], send)
    commit.start()
    crowd = [asyncio.create_task(commit.submit({"tenant": f"locked-{n}"})) for n in range(FEW + 1)]
    await until(lambda: len(stuck) == 1)
    async with asyncio.timeout(10 * PATIENCE):
        await commit.submit({"tenant": "acme"})
        for n in range(100):  # and from now on at once
            await commit.submit({"tenant": f"t-{n}"})
    released.set()
    await asyncio.gather(*crowd)
    await commit.stop()


@pytest.mark.parametrize(
    "trouble", [asyncpg.UndefinedFunctionError("function receive does not exist"), asyncpg.InternalServerError("cache lookup failed")]
)
async def test_an_upgrade_of_the_ledger_is_no_fault_of_the_items(trouble: Exception) -> None:
    troubles = [trouble]

    async def send(_: Connection, items: Sequence[dict[str, Any]]) -> list[Any]:
        if troubles:
            raise troubles.pop()
        return ["stored"] * len(items)

    commit = GroupCommit([Connection("")], send)
    commit.start()
    assert await commit.submit({"tenant": "acme"}) == "stored"
    await commit.stop()


async def test_a_transaction_of_a_worker_that_stands_still_is_ended_by_the_server(ledger_dsn: str) -> None:
    """Its locks would keep tenants from all others, and neither lease nor fence would help."""
    frozen, other = Connection(ledger_dsn, statement_timeout=0.1), Connection(ledger_dsn)
    await other.fetch("insert into tenants (tenant_id) values ('acme') on conflict do nothing")

    async def stand_still() -> None:
        async with frozen.transaction() as raw:
            await raw.execute("update tenants set owner = owner where tenant_id = 'acme'")
            await other.fetch("update tenants set owner = owner where tenant_id = 'acme'")
            await raw.execute("select 1")

    with pytest.raises(Exception, match=r"idle-in-transaction|connection") as caught:
        await stand_still()
    assert is_outage(caught.value)
    for connection in (frozen, other):
        await connection.close()


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not said():  # noqa: ASYNC110  # it changes in tasks that know nothing of a test
            await asyncio.sleep(0.005)
