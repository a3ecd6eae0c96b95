"""The verbs that run processes or make what they need: `up`, `init`, `worker`."""

import asyncio
import os
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from streams.cli import out
from streams.cli.frame import run as run_async
from streams.cli.load import load
from streams.cli.refusal import USAGE, CliError


class Role(StrEnum):
    RUN = "run"
    VIEW = "view"


def up(
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Also run a worker.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Wait seconds where production waits minutes.")] = False,
    faults: Annotated[bool, typer.Option("--faults", help="Let the neighbours be told to misbehave.")] = False,
) -> None:
    """Run the whole platform in the foreground, on this machine alone.

    Example: tidemill up --quick
    """
    from streams.local.up import up as serve
    from streams.logs import set_up

    settings = load()
    set_up(settings)
    raise typer.Exit(run_async(serve(settings.home, say=_say, worker=worker, quick=quick, faults=faults)))


def init(
    warehouse: Annotated[
        bool, typer.Option("--warehouse", help="Also the tables that data quality watches; a real warehouse brings its own.")
    ] = False,
) -> None:
    """Create the ledger's schema, the topics and the buckets; safe to run again.

    Example: tidemill init
    """
    from streams.cli.trouble import of_setup
    from streams.logs import set_up
    from streams.setup import initialise

    settings = load()
    set_up(settings)
    try:
        asyncio.run(initialise(settings, warehouse=warehouse))
    except Exception as error:
        if trouble := of_setup(error, settings):
            raise trouble from None
        raise


def worker(
    role: Annotated[Role, typer.Option(help="`run`: agents and executor; `view`: the Faust table, the API and the status pages.")] = Role.RUN,
    slot: Annotated[int | None, typer.Option(help="A fixed slot; default: the lowest free one.", min=1, max=256)] = None,
    leave: Annotated[bool, typer.Option("--leave", help="Hand its partitions over when it is told to stop: there will be fewer workers.")] = False,
    crash_at: Annotated[str | None, typer.Option(metavar="POINT[:AFTER]", help="For tests: die by SIGKILL at this fault point.")] = None,
) -> None:
    """Run a worker in the foreground until it is told to stop.

    Example: tidemill worker --slot 1
    """
    if crash_at is not None:
        _arm(crash_at)
    settings = load()
    sys.argv[1:] = []  # Faust reads the command line for options of its own
    if role is Role.VIEW:
        from streams.view import run as run_view

        _end(run_view(settings))
    from streams.cli.trouble import of_ledger
    from streams.worker import run

    try:
        status = run(settings, slot=slot, leaving=leave)
    except Exception as error:
        if trouble := of_ledger(error, settings):
            raise trouble from None
        raise
    _end(status)


def _end(status: int) -> NoReturn:
    """End the process here and now: Faust leaves threads in native code, and the interpreter's own end, which they outlive, may be a SIGSEGV."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _arm(crash_at: str) -> None:
    from streams.faultpoints import POINTS, arm

    point, _, after = crash_at.partition(":")
    if point not in POINTS or not (after or "0").isdigit():
        raise CliError("bad_crash_point", f"--crash-at is POINT or POINT:AFTER; the points are {', '.join(POINTS)}", USAGE)
    arm(point, after=int(after or 0))


def _say(text: str) -> None:
    out.line(text)
    sys.stdout.flush()
