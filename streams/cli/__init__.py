"""The command `tidemill`: one verb a function, `--json` everywhere, exit codes 0 done, 1 failed, 2 wrong usage, 3 a needed service is not there."""

from streams.cli.app import main

__all__ = ["main"]
