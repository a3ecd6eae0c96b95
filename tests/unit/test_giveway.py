"""What can wait is done at once when nobody is in a hurry, else a few at a time and with pauses."""

import asyncio

import pytest

from streams.giveway import LONGEST, PAUSE, TURNS, GiveWay

pytestmark = pytest.mark.looptime


@pytest.fixture
def way() -> GiveWay:
    return GiveWay()


async def most_at_a_time(way: GiveWay, things: int) -> int:
    under_way, most = 0, 0

    async def patient() -> None:
        nonlocal under_way, most
        async with way.turn():
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1

    await asyncio.gather(*(patient() for _ in range(things)))
    return most


async def test_when_nobody_is_in_a_hurry_all_go_at_once(way: GiveWay) -> None:
    assert await most_at_a_time(way, 3 * TURNS) == 3 * TURNS


async def test_beside_others_a_few_go_at_a_time(way: GiveWay) -> None:
    way.hurried()
    assert await most_at_a_time(way, 3 * TURNS) == TURNS


async def test_who_waits_for_a_turn_makes_a_crowd_and_who_has_one_does_not(way: GiveWay) -> None:
    way.hurried()
    seen: list[bool] = []

    async def patient() -> None:
        async with way.turn():
            await asyncio.sleep(0.01)
            seen.append(way.crowded)

    await asyncio.gather(*(patient() for _ in range(2 * TURNS)))
    assert seen == [True] * TURNS + [False] * TURNS


async def test_after_its_turn_a_patient_thing_leaves_the_loop_to_the_others(way: GiveWay) -> None:
    way.hurried()
    loop = asyncio.get_running_loop()
    async with way.turn():
        began = loop.time()
        await asyncio.sleep(0.05)
        ended = loop.time()
    assert loop.time() - ended >= PAUSE * (ended - began) * 0.9


async def test_what_waited_for_an_outage_to_end_does_not_wait_as_long_again(way: GiveWay) -> None:
    way.hurried()
    loop = asyncio.get_running_loop()
    async with way.turn():
        await asyncio.sleep(300)
        way.hurried()
        ended = loop.time()
    assert loop.time() - ended == pytest.approx(LONGEST, rel=0.1)


async def test_a_thing_that_fails_gives_its_turn_back(way: GiveWay) -> None:
    way.hurried()
    for _ in range(2 * TURNS):
        with pytest.raises(ValueError, match="broken"):
            async with way.turn():
                raise ValueError("broken")
    assert await most_at_a_time(way, TURNS) == TURNS
