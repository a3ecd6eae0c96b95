"""The command `tidemill`: the table of contents of its verbs, and the one place where errors become an exit status."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from streams.cli import backfill, dead, models, moves, pauses, platform, proof, quality, runs, schedules, tenants, topics
from streams.cli.config import config
from streams.cli.doctor import doctor
from streams.cli.out import say
from streams.cli.refusal import FAILED, CliError
from streams.cli.trigger import trigger

log = logging.getLogger(__name__)

app = typer.Typer(
    name="tidemill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An event-driven control plane for recommender platforms. Exit status: 0 done, 1 failed, 2 wrong usage, 3 a needed service is not there.",
)
for verb in (
    *(platform.up, platform.init, platform.worker, doctor),
    *(trigger, runs.runs, runs.show, runs.why, runs.events, moves.cancel, moves.retry),
    *(pauses.pause, pauses.resume, pauses.pauses),
    *(proof.prove, proof.verify, proof.rebuild),
    *(models.versions, quality.incidents, config),
):
    app.command()(verb)
for name, verbs in (
    *(("tenants", tenants.app), ("schedules", schedules.app), ("backfill", backfill.app)),
    *(("quality", quality.app), ("dead", dead.app), ("pipelines", models.pipelines), ("topics", topics.app)),
):
    app.add_typer(verbs, name=name)

CTRL_C = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script."""
    sys.exit(_run(args))


def _run(args: Sequence[str] | None) -> int:
    try:
        status = app(args, prog_name="tidemill", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        say(str(error))
        return error.status
    except TyperException as error:
        if wrong := error.format_message():
            context = getattr(error, "ctx", None)
            say(f"wrong_usage: {wrong.rstrip('.')}; `{context.command_path if context else 'tidemill'} --help` shows how")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return CTRL_C
    except BrokenPipeError:  # `tidemill runs | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the flush at exit
        return FAILED
    except Exception as error:
        log.debug("the command failed", exc_info=True)
        say(f"unexpected: {type(error).__name__}: {str(error).partition(chr(10))[0][:300]}; TIDEMILL_LOG_LEVEL=debug shows where")
        return FAILED
    return status if isinstance(status, int) else 0
