"""`tidemill backfill …`: past due times of a schedule, made up for in a batch."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time, me
from streams.cli.refusal import accepted

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer
    from streams.ledger.reader import Reader
    from streams.ledger.rows import Backfill

app = typer.Typer(no_args_is_help=True, help="Past due times of a schedule, made up for: start, list, show, pause, resume, cancel.")
Id = Annotated[str, typer.Argument(metavar="BACKFILL", help="A backfill's id, or its beginning if that is unique.")]
_DONE = {
    "paused": "is paused; runs under way go on",
    "running": "goes on",
    "cancelled": "is cancelled; runs under way go on, what had not begun is skipped",
    "there": "is so already; nothing changed",
}


@app.command()
def start(
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help="Whose due times.")],
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, in the schedule's time zone.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")],
    tenant: Annotated[str | None, typer.Option(help="For this tenant alone; else for every active one.")] = None,
    where: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only tenants of this label or owner; repeatable.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="Runs of it that are open at a time; of a tenant it is always one.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it would be.")] = False,
    as_json: Json = False,
) -> None:
    """Ask for a run for each due time of these days that never fired. Asking again asks for what is still missing.

    Example: tidemill backfill start training-daily --from 2026-03-01 --to 2026-03-07 --dry-run
    """

    async def move(door: Door) -> "Answer":
        from streams.backfill import start_backfill
        from streams.everyone import chosen_by

        chosen: dict[str, Any] = {"tenant": tenant} if tenant else chosen_by(where or [])
        accepted(chosen if "result" in chosen else {"result": "chosen"})
        days = {"first": first.date(), "last": last.date()}
        return await in_time(start_backfill(door.ledger, schedule, **days, chosen=chosen, at_once=at_once, by=me(), dry_run=dry_run))

    answer = accepted(act(move))
    amount = f"{answer['due_times']} due times, {answer['planned']} runs to ask for, {answer['fired_before']} fired before"
    words = {"started": "started", "there": "there is nothing left to plan", "planned": "would be"}
    out.show(answer, as_json, lambda: out.line(f"backfill {out.short(answer['backfill'])}: {words[answer['result']]}: {amount}"))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List backfills with how far they are.

    Example: tidemill backfill list
    """
    found = ask(lambda reader: reader.backfills())
    columns = ("backfill", "schedule", "from", "to", "tenants", "state", "done", "open", "succeeded", "failed", "skipped", "planned", "by")
    out.show([_document(each) for each in found], as_json, lambda: out.table(columns, map(_row, found)))


@app.command()
def show(backfill: Id, as_json: Json = False) -> None:
    """Show how far one is.

    Example: tidemill backfill show 3f2a --json
    """

    async def question(reader: "Reader") -> "Backfill":
        return (await reader.backfills(await reader.find_backfill(backfill)))[0]

    found = ask(question)
    document = _document(found)
    rows = [(name.replace("_", " "), value) for name, value in document.items()]
    out.show(document, as_json, lambda: out.table(("backfill", out.short(found.backfill_id)), rows))


@app.command()
def pause(backfill: Id, as_json: Json = False) -> None:
    """Let it ask for nothing more until it is resumed.

    Example: tidemill backfill pause 3f2a
    """
    _moved(backfill, "paused", as_json)


@app.command()
def resume(backfill: Id, as_json: Json = False) -> None:
    """Let it go on.

    Example: tidemill backfill resume 3f2a
    """
    _moved(backfill, "running", as_json)


@app.command()
def cancel(backfill: Id, as_json: Json = False) -> None:
    """End it: what has not begun is skipped, with the reason.

    Example: tidemill backfill cancel 3f2a
    """
    _moved(backfill, "cancelled", as_json)


def _moved(backfill: str, state: str, as_json: bool) -> None:
    async def move(door: Door) -> "Answer":
        from streams.backfill import change_backfill

        key = str(await door.reader.find_backfill(backfill))
        return await in_time(change_backfill(door.ledger, key, state, by=me()))

    answer = accepted(act(move))
    out.show(answer, as_json, lambda: out.line(f"backfill {out.short(answer['backfill'])} {_DONE[answer['result']]}"))


def _document(found: "Backfill") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found) | {"percent": found.percent}


def _row(b: "Backfill") -> tuple[Any, ...]:
    whom = " ".join(f"{name}={value}" for name, value in b.chosen.items()) or "all"
    counts = (f"{b.percent:.0f} %", b.open, b.succeeded, b.failed, b.skipped, b.planned)
    return (out.short(b.backfill_id), b.schedule, b.first_day, b.last_day, whom, b.state, *counts, b.changed_by)
