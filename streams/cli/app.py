"""The command-line app and the verbs that run processes."""

import asyncio
import sys
from enum import StrEnum
from typing import Annotated

import typer

from streams.logs import set_up
from streams.settings import Settings

app = typer.Typer(name="tidemill", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="An event-driven control plane for recommender platforms.")


class Role(StrEnum):
    RUN = "run"
    VIEW = "view"


@app.command()
def init() -> None:
    """Create the ledger's schema, the topics and the buckets. Safe to run again."""
    from streams.setup import initialise

    settings = Settings()
    set_up(settings)
    asyncio.run(initialise(settings))


@app.command()
def worker(
    role: Annotated[Role, typer.Option(help="`run`: agents and executor; `view`: the Faust table, the API and the status pages.")] = Role.RUN,
    slot: Annotated[int | None, typer.Option(help="A fixed slot; default: the lowest free one.", min=1)] = None,
) -> None:
    """Run a worker in the foreground until it is told to stop."""
    if role is Role.VIEW:
        from streams.view import run as run_view

        raise typer.Exit(run_view(Settings()))
    from streams.worker import run

    raise typer.Exit(run(Settings(), slot=slot))


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    sys.exit(main())
