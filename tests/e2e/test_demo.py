"""`scripts/demo` as a newcomer runs it: real servers, three healthy tenants and one with bad data, and nothing left behind."""

import asyncio
import fcntl
import json
import os
import re
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
TENANTS = {"acme", "globex", "initech"}


async def start(home: Path, *flags: str) -> asyncio.subprocess.Process:
    """The demo, in a home folder of its own."""
    return await asyncio.create_subprocess_exec(
        str(ROOT / "scripts" / "demo"),
        *flags,
        env=os.environ | {"TIDEMILL_HOME": str(home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Exit status and all it said."""
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def anything_left(home: Path) -> bool:
    """Every process of a stack holds the lock of its home folder as long as it lives."""
    with (home / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return (home / "stack.json").exists()


async def test_the_demo_serves_three_tenants_better_than_popularity_and_blocks_one_until_its_data_is_mended(tmp_path: Path) -> None:
    home = tmp_path / "home"
    status, said = await end(await start(home, "--once"))
    assert status == 0, said
    succeeded = re.findall(r"^ *(\w+) +[0-9a-f]{8} +succeeded ", said, re.MULTILINE)
    assert set(succeeded) == TENANTS, said
    scores = json.loads((home / "demo" / "scores.json").read_text())
    assert set(scores) == TENANTS
    assert all(score["hit_rate"] > score["popularity"] for score in scores.values()), scores
    assert "umbrella: data_quality: the data of umbrella did not pass" in said
    rows = re.findall(r"^ *user_interactions\.(\S+) +\w+ +(\d+) +(\d+) ", said, re.MULTILINE)
    assert len(rows) == 5, said
    assert all(counted == put_in for _, counted, put_in in rows), rows
    assert "every incident is resolved" in said
    assert "was let through because the data is good again: succeeded" in said
    assert not anything_left(home)


async def test_ctrl_c_in_the_middle_of_the_demo_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = await start(home)
    while not (home / "logs" / "kafka.log").exists():  # noqa: ASYNC110 - it is another process that makes the file
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status, said = await end(process)
    assert status == 130, said
    assert "Traceback" not in said
    assert not anything_left(home)


async def test_a_folder_that_is_no_home_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    status, said = await end(await start(tmp_path, "--once", "--fresh"))
    assert status == 1
    assert "is not a home folder of Tidemill" in said
    assert (tmp_path / "thesis.txt").exists()


async def test_a_home_that_another_stack_uses_is_refused_by_name(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, said = await end(await start(tmp_path, "--once"))
    assert status == 1
    assert f"is in use by another stack (pid {os.getpid()})" in said
    assert "Traceback" not in said


async def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA__PARTITIONS", "many")
    status, said = await end(await start(tmp_path, "--once"))
    assert status == 1
    assert "bad_setting: kafka.partitions" in said
    assert "Traceback" not in said
