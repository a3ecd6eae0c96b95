"""What a batch of the ledger's calls does when the connection, not an item, is the trouble."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from streams.ledger.connection import Connection
from streams.ledger.groupcommit import FEW, GroupCommit


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


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not said():  # noqa: ASYNC110  # it changes in tasks that know nothing of a test
            await asyncio.sleep(0.005)
