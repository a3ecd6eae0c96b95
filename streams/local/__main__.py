"""`python -m streams.local [--no-worker] [--quick] [--faults]`: the whole platform in the foreground, without the CLI."""

import asyncio
import sys

from streams.local.up import up
from streams.settings import Settings


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(flags: list[str]) -> int:
    return asyncio.run(up(Settings().home, say=say, worker="--no-worker" not in flags, quick="--quick" in flags, faults="--faults" in flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
