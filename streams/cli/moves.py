"""The verbs that move a run: `cancel` and `retry`."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, in_time, me
from streams.cli.refusal import FAILED, USAGE, CliError, accepted
from streams.cli.runs import RunId

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer

Rate = Annotated[float, typer.Option(min=0.01, max=1000, help="At most so many a second.")]
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def cancel(run: RunId, as_json: Json = False) -> None:
    """Ask a run to end; a step in flight has the last word.

    Example: tidemill cancel 7f3a
    """

    async def move(door: Door) -> "Answer":
        from streams.requests import cancel_run

        found = await door.reader.find_run(run)
        return accepted(await in_time(cancel_run(door.ledger, door.pipelines, found, by=me())))

    answer = act(move)
    said = "is cancelled" if answer["result"] == "cancelled" else "ends as soon as the step in flight reports"
    out.show(answer, as_json, lambda: out.line(f"run {answer['run_id']} {said}"))


def retry(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run id, or its beginning if that is unique.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="From this stage; default: the one that failed.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run that ended with --code since --since.")] = False,
    code: Annotated[str | None, typer.Option(help="With --all: the code the runs ended with.")] = None,
    since: Annotated[str | None, typer.Option(help="With --all: a time, or how long ago (90m, 2h, 1d).")] = None,
    rate: Rate = 5,
    as_json: Json = False,
) -> None:
    """Go on with a run that is over; what its earlier stages did is kept.

    Example: tidemill retry 7f3a --from deploy
    """
    if every:
        if run or not code or not since:
            raise CliError(
                "wrong_usage", "with --all say --code and --since, and no run; e.g. `tidemill retry --all --code engine_away --since 2h`", USAGE
            )
        _retry_all(code, moment(since), begin, rate, as_json)
        return
    if not run or code or since:
        raise CliError("wrong_usage", "name one run, or say --all with --code and --since", USAGE)

    async def move(door: Door) -> "Answer":
        from streams.requests import retry_run

        found = await door.reader.find_run(run)
        return accepted(await in_time(retry_run(door.ledger, door.pipelines, found, stage=begin, by=me())))

    answer = act(move)
    out.show(answer, as_json, lambda: out.line(f"run {answer['run_id']} goes on from {answer['stage']}, round {answer['round']}"))


def _retry_all(code: str, since: datetime, begin: str | None, rate: float, as_json: bool) -> None:
    async def move(door: Door) -> list["Answer"]:
        from streams.requests import retry_run

        answers = []
        for n, run in enumerate(await door.reader.runs_failed(code, since)):
            if n:
                await asyncio.sleep(1 / rate)
            answer = await in_time(retry_run(door.ledger, door.pipelines, run.run_id, stage=begin, by=me()))
            answers.append({"run_id": str(run.run_id), "tenant_id": run.tenant_id} | answer)
        return answers

    answers = act(move)
    rows = [(a["run_id"], a["tenant_id"], a["result"], a.get("stage"), a.get("sentence")) for a in answers]
    out.show(answers, as_json, lambda: out.table(("run", "tenant", "result", "from", "why not"), rows))
    if any(answer["result"] == "refused" for answer in answers):
        raise typer.Exit(FAILED)


def moment(text: str) -> datetime:
    """A time, or a while ago."""
    if span := _SPAN.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CliError("bad_time", "--since is a time such as 2026-01-31T02:00:00Z, or how long ago, such as 90m, 2h or 1d", USAGE) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
