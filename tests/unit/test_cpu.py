"""Children of `streams/cpu.py`: what they return, how they end, and that nothing of them is left."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from streams.cpu import ChildDied, ChildFailed, ChildProcesses

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(30)]
GIB = 1 << 30


@pytest.fixture
async def cpu():
    async with ChildProcesses(2, memory=GIB) as children:
        yield children


def who() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def eat(size: int) -> int:
    return len(bytearray(size))


def quarrel() -> None:
    raise LookupError("no such tenant")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(3)


def chatter() -> str:
    sys.stdout.write("not the answer\n" * 10_000)
    return "the answer"


def secrets() -> list[str]:
    return [name for name in os.environ if name.startswith(("TIDEMILL_", "AWS_"))]


def large() -> bytes:
    return bytes(17 << 20)


def hold(seconds: float, note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(seconds)


async def test_a_function_runs_in_a_process_of_its_own(cpu):
    child, parent = await cpu.run(who, timeout=20)
    assert parent == os.getpid() != child


async def test_what_a_function_prints_does_not_spoil_its_answer(cpu):
    assert await cpu.run(chatter, timeout=20) == "the answer"


async def test_an_exception_arrives_as_code_type_and_text(cpu):
    with pytest.raises(ChildFailed, match="LookupError: no such tenant") as failed:
        await cpu.run(quarrel, timeout=20)
    assert failed.value.code == "lookup_error"


async def test_a_crash_is_named_by_its_signal(cpu):
    with pytest.raises(ChildDied, match="SIGSEGV"):
        await cpu.run(crash, timeout=20)


async def test_an_exit_without_answer_is_a_death(cpu):
    with pytest.raises(ChildDied, match="exit status 3"):
        await cpu.run(leave, timeout=20)


async def test_a_result_that_is_too_large_is_refused(cpu):
    with pytest.raises(ChildDied, match="no answer"):
        await cpu.run(large, timeout=20)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
async def test_a_child_may_use_its_memory_and_no_more(cpu):
    assert await cpu.run(eat, GIB // 2, timeout=20) == GIB // 2
    with pytest.raises(ChildFailed, match="needs more than 1024 MiB") as failed:
        await cpu.run(eat, 2 * GIB, timeout=20)
    assert failed.value.code == "out_of_memory"


async def test_a_child_that_takes_too_long_is_killed(cpu, tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(TimeoutError, match="hold took longer than 4 s"):
        await cpu.run(hold, 60, str(note), timeout=4)
    await _gone(int(note.read_text()))


async def test_cancelling_the_call_kills_the_child(cpu, tmp_path):
    note = tmp_path / "pid"
    call = asyncio.create_task(cpu.run(hold, 60, str(note), timeout=60))
    pid = await _written(note)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _gone(pid)
    assert cpu.free == 2


async def test_the_loop_goes_on_and_free_counts_while_children_work(cpu, tmp_path):
    calls = [asyncio.create_task(cpu.run(hold, 0.5, str(tmp_path / str(n)), timeout=20)) for n in range(3)]
    await asyncio.sleep(0)
    assert cpu.free == 0
    turns = 0
    while not all(call.done() for call in calls):
        await asyncio.sleep(0.01)
        turns += 1
    await asyncio.gather(*calls)
    assert turns > 20
    assert cpu.free == 2


async def test_a_child_sees_no_secrets(cpu, monkeypatch):
    monkeypatch.setenv("TIDEMILL_S3__SECRET_KEY", "canary")
    assert await cpu.run(secrets, timeout=20) == []


async def test_a_lambda_is_refused_before_a_child_is_started(cpu):
    with pytest.raises(TypeError, match="function of a module"):
        await cpu.run(lambda: 1, timeout=1)


async def test_no_thread_is_left_behind(cpu):
    before = threading.active_count()
    await cpu.run(who, timeout=20)
    for _ in range(100):
        if threading.active_count() <= before:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"threads left: {threading.enumerate()}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the orphan")
async def test_a_child_dies_with_its_parent(tmp_path):
    note = tmp_path / "pid"
    program = (
        "import asyncio, sys\n"
        "from streams.cpu import ChildProcesses\n"
        "import test_cpu_jobs\n"
        "async def main():\n"
        "    async with ChildProcesses(1, memory=1 << 30) as cpu:\n"
        f"        await cpu.run(test_cpu_jobs.hold, 60, {str(note)!r}, timeout=60)\n"
        "asyncio.run(main())\n"
    )
    source = "import os, time, pathlib\ndef hold(s, note):\n    pathlib.Path(note).write_text(str(os.getpid()))\n    time.sleep(s)\n"
    await asyncio.to_thread((tmp_path / "test_cpu_jobs.py").write_text, source)
    root = Path(__file__).parents[2]
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"})  # noqa: ASYNC220
    try:
        pid = await _written(note)
    finally:
        worker.kill()
        worker.wait()
    await _gone(pid)


def test_the_worker_stays_free_of_numpy_and_faiss():
    program = "import agents, sys; print(*{'numpy', 'faiss', 'pyarrow', 'pandas', 'scipy', 'great_expectations'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == ""


async def _written(note: Path) -> int:
    """The pid that a child wrote, as soon as it did."""
    for _ in range(1000):
        if (text := await asyncio.to_thread(_text, note)) != "":
            return int(text)
        await asyncio.sleep(0.02)
    raise AssertionError("the child never began")


async def _gone(pid: int) -> None:
    for _ in range(250):
        state = (await asyncio.to_thread(_text, Path(f"/proc/{pid}/stat"))).rpartition(")")[2]
        if state.split()[:1] in ([], ["Z"]):  # a zombie is dead; its new parent has not collected it yet
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"process {pid} still lives")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
