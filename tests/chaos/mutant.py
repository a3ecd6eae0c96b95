"""A worker that is broken on purpose, on real servers: `python -m tests.chaos.mutant NAME [worker …]`.

Without a command of the command line it breaks the ledger alone, where what it breaks is SQL; a worker finds that done.
"""

import os
import runpy
import sys
from contextlib import suppress

from tests.simulation.mutants import MUTANTS

REAL = ("delete_before_publish", "no_fence", "no_dedupe", "no_offset_check", "no_reaper", "no_sweep", "key_of_the_attempt")
"""Those that break nothing of the simulation's own."""


def main(name: str, *command: str) -> None:
    with suppress(LookupError):  # the line that it breaks is broken already
        MUTANTS[name].break_it(os.environ["TIDEMILL_LEDGER__DSN"])
    if command:
        sys.argv = ["tidemill", *command]
        runpy.run_module("streams.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
