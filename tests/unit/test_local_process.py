"""Processes of the local stack: how they are born, how they end, and how often they are started again."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from streams.local import spawn
from streams.local.child import RESTARTS, SHORT_PAUSE, WINDOW, pause_before_restart

LIFE = spawn.Life()


def which(name: str) -> str:
    """The full path, which `spawn` wants."""
    path = shutil.which(name)
    assert path is not None
    return path


async def test_a_process_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = await spawn.spawn([sys.executable, "-S", "-c", stubborn], log, life=LIFE)
    while not spawn.tail(log):  # noqa: ASYNC110 - it says so in a file
        await asyncio.sleep(0.01)
    await spawn.end(process, signal.SIGTERM, patience=0.05)
    assert process.returncode == -signal.SIGKILL


async def test_what_a_process_left_in_its_session_ends_with_it(tmp_path: Path) -> None:
    process = await spawn.spawn([which("sh"), "-c", "sleep 60 & echo $!; exit 0"], tmp_path / "log", life=LIFE)
    await process.wait()
    orphan = int(spawn.tail(tmp_path / "log"))
    await spawn.end(process, signal.SIGTERM, patience=1)
    async with asyncio.timeout(15):
        while is_running(orphan):  # noqa: ASYNC110 - it is not our child
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Not gone, and not a zombie that only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_cancelled_errand_leaves_no_process(tmp_path: Path) -> None:
    task = asyncio.create_task(spawn.run([which("sh"), "-c", "echo $$; exec sleep 60"], tmp_path / "log"))
    while not (pid := spawn.tail(tmp_path / "log")):  # noqa: ASYNC110 - it says so in a file
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not is_running(int(pid))


async def test_a_command_that_does_not_exist_is_named_in_the_log(tmp_path: Path) -> None:
    assert await spawn.run(["/nowhere/server"], tmp_path / "log") != 0
    assert "cannot run /nowhere/server" in spawn.tail(tmp_path / "log")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its rights")
async def test_a_process_born_for_another_user_is_that_user(tmp_path: Path) -> None:
    await spawn.run([which("id"), "-u"], tmp_path / "log", life=spawn.Life(uid=65534))
    assert spawn.tail(tmp_path / "log") == "65534"


def test_the_tail_of_a_log_is_of_this_life_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\nnew\n")
    assert spawn.tail(log, since=4) == "new"
    assert spawn.tail(log, lines=1) == "new"


def test_a_process_is_started_again_soon_but_only_a_few_times_a_minute() -> None:
    assert pause_before_restart([], now=100.0) == SHORT_PAUSE
    assert pause_before_restart([90.0, 95.0, 99.0], now=100.0) == 90.0 + WINDOW - 100.0
    assert pause_before_restart([10.0] * RESTARTS, now=100.0) == SHORT_PAUSE
