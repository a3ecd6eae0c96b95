"""The resident child on real processes: it keeps what it imported, and whatever happens to it costs one call."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from streams.cpu import ChildDied, ChildFailed
from streams.resident import ResidentChild

MEMORY = 1 << 30
_COUNT = [0]


def count() -> int:
    _COUNT[0] += 1
    return _COUNT[0]


def whoami() -> int:
    print("what it prints is no answer")  # noqa: T201
    return os.getpid()


def nap(seconds: float) -> None:
    time.sleep(seconds)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("no good")


@pytest.fixture
async def child():
    async with ResidentChild(memory=MEMORY) as child:
        yield child


async def test_the_same_child_answers_call_after_call_and_keeps_its_state(child):
    assert [await child.run(count, timeout=15) for _ in range(3)] == [1, 2, 3]
    assert await child.run(whoami, timeout=15) == await child.run(whoami, timeout=15) != os.getpid()


async def test_an_exception_is_told_by_code_and_the_child_lives_on(child):
    pid = await child.run(whoami, timeout=15)
    with pytest.raises(ChildFailed, match="no good") as said:
        await child.run(fail, timeout=15)
    assert said.value.code == "value_error"
    assert await child.run(whoami, timeout=15) == pid


async def test_a_child_that_dies_costs_one_call_and_is_replaced(child):
    with pytest.raises(ChildDied):
        await child.run(die, timeout=15)
    assert await child.run(count, timeout=15) == 1


async def test_a_child_that_hangs_is_killed_and_replaced(child):
    pid = await child.run(whoami, timeout=15)
    with pytest.raises(TimeoutError, match="nap"):
        await child.run(nap, 60, timeout=0.2)
    assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240 - a look at the process table
    assert await child.run(count, timeout=15) == 1


async def test_a_cancelled_call_leaves_no_answer_for_the_next_one(child):
    call = asyncio.create_task(child.run(nap, 60, timeout=60))
    await asyncio.sleep(0.3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await child.run(count, timeout=15) == 1


async def test_calls_wait_for_their_turn(child):
    assert sorted(await asyncio.gather(*(child.run(count, timeout=15) for _ in range(5)))) == [1, 2, 3, 4, 5]


def test_the_worker_never_imports_great_expectations():
    """Its import takes seconds and holds the GIL."""
    code = "import agents, streams.worker, streams.web.app, sys; sys.exit('great_expectations' in sys.modules or 'pandas' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
