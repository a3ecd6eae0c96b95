"""The real servers for a test session, in a process of their own: `python -m tests.stack HOME [neighbours]` until SIGTERM."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streams.local.serve import serve
from streams.local.stack import Stack
from streams.local.up import Platform

ROOT = Path(__file__).parents[1]


@contextmanager
def running_servers(home: Path, *, neighbours: bool) -> Iterator[dict[str, Any]]:
    """The addresses (as in stack.json) of servers that live as long as the block."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMILL_")}
    said = home.with_suffix(".log").open("w+")
    command = [sys.executable, "-m", "tests.stack", str(home), *(["neighbours"] if neighbours else [])]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        yield _addresses(process, home / "stack.json", Path(said.name))
    finally:
        process.terminate()
        process.wait(timeout=40)
        said.close()


def _addresses(process: "subprocess.Popen[bytes]", file: Path, said: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the test servers ended with {process.returncode}:\n{said.read_text()[-3000:]}")
        if file.exists():
            return dict(json.loads(file.read_text()))
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"the test servers are not up after 120 s:\n{said.read_text()[-3000:]}")


def main() -> int:
    home, neighbours = Path(sys.argv[1]), "neighbours" in sys.argv[2:]
    stack = Platform(home, say=_say, faults=True, init=False) if neighbours else Stack(home, say=_say)
    return asyncio.run(serve(stack, _say))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
