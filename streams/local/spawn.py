"""How the stack starts a process: through `birth.py`, in a session of its own, its output in a file."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BIRTH = Path(__file__).with_name("birth.py")
KEPT_LOG = 5 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Who a process is, and how it ends when the supervisor does."""

    death_signal: signal.Signals = signal.SIGKILL
    uid: int = 0
    """The user to become; 0: stay who we are."""
    keep_dac: bool = False
    nice: int = 0

    def command(self, argv: Sequence[str]) -> list[str]:
        own = (os.getpid(), int(self.death_signal), self.uid, int(self.keep_dac), self.nice)
        return [sys.executable, "-I", "-S", str(BIRTH), *map(str, own), *argv]


async def spawn(
    argv: Sequence[str], log: Path, *, life: Life, env: Mapping[str, str] | None = None, cwd: str = "/", keep: Sequence[int] = ()
) -> asyncio.subprocess.Process:
    """Start `argv`; its own session keeps the terminal's Ctrl-C away, so that we decide the order in which things stop.

    `keep` are descriptors it holds as long as it lives (the home folder's lock).
    """
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *life.command(argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(keep),
        )


async def run(argv: Sequence[str], log: Path, *, life: Life | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run `argv` to its end and give its exit status; it is ended when we are cancelled."""
    process = await spawn(argv, log, life=life or Life(), env=env)
    try:
        return await process.wait()
    finally:
        await end(process, signal.SIGKILL, patience=1)


async def end(process: asyncio.subprocess.Process, how: signal.Signals, *, patience: float) -> None:
    """Ask, wait, then insist; whatever it left in its session goes with it."""
    if process.returncode is None:
        process.send_signal(how)
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()
    sweep(process.pid)


def sweep(session: int) -> None:
    """Kill what is left of a process group whose leader has ended."""
    try:
        os.killpg(session, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody left (macOS says the second for zombies)
        return


def rotate(log: Path) -> None:
    """Keep a log from growing over months of starts."""
    if log.exists() and log.stat().st_size > KEPT_LOG:
        log.replace(log.with_suffix(".old.log"))


def tail(log: Path, lines: int = 12, *, since: int = 0) -> str:
    """The last lines of a log, of this life of the process if `since` is where it began."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
