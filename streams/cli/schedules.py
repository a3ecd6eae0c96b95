"""`tidemill schedules …`: when pipelines run by themselves."""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time, me
from streams.cli.refusal import USAGE, CliError, accepted
from streams.cli.runs import Tenant

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer
    from streams.ledger.reader import Reader
    from streams.ledger.rows import Schedule, ScheduleChange, Slot
    from streams.schedule import Fire

app = typer.Typer(no_args_is_help=True, help="When pipelines run by themselves: list, set, pause, resume, preview, history, delete.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="A schedule's name.")]
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Missed(StrEnum):
    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    MERGE = "merge"
    SKIP = "skip"
    QUEUE = "queue"


@app.command("list")
def list_(
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, those for everybody first.")] = 1000,
    as_json: Json = False,
) -> None:
    """List schedules with their next and last due times; with --tenant its own.

    Example: tidemill schedules list --tenant acme
    """
    found = ask(lambda reader: reader.schedules(tenant=tenant, limit=limit))
    columns = ("name", "pipeline", "tenant", "cron", "zone", "state", "next due (UTC)", "last due (UTC)", "missed", "overlap", "jitter", "revision")
    out.show(found, as_json, lambda: out.table(columns, map(_row, found)))


@app.command("set")
def set_(
    name: Name,
    cron: Annotated[str | None, typer.Option(help="Five fields, e.g. '0 2 * * *'.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Which pipeline; needed for a new one.")] = None,
    tenant: Annotated[str | None, typer.Option(help="For this tenant alone, in place of those for everybody.")] = None,
    zone: Annotated[str | None, typer.Option(help="IANA time zone, e.g. Europe/Berlin.")] = None,
    jitter: Annotated[str | None, typer.Option(help="Spread tenants over this long after the due time, e.g. 30m.")] = None,
    missed: Annotated[Missed | None, typer.Option(help="What happens to times that were missed.")] = None,
    catch_up: Annotated[str | None, typer.Option(help="How old a missed time may be, e.g. 2d.")] = None,
    overlap: Annotated[Overlap | None, typer.Option(help="What happens when the tenant's run is still active.")] = None,
    starts: Annotated[datetime | None, typer.Option(help="Not before this time (UTC).")] = None,
    ends: Annotated[datetime | None, typer.Option(help="Not after this time (UTC).")] = None,
    request: Annotated[str | None, typer.Option(metavar="JSON", help='What its requests say, e.g. \'{"model_config": {"epochs": 20}}\'.')] = None,
    as_json: Json = False,
) -> None:
    """Make a schedule, paused; or change one, live.

    Example: tidemill schedules set training-daily --cron "30 3 * * *" --zone Europe/Berlin
    """
    from streams.cli.trigger import read_config

    said: dict[str, Any] = {
        **{"cron": cron, "pipeline": pipeline, "tenant_id": tenant, "zone": zone, "request": read_config(request)},
        **{"jitter": span(jitter, "--jitter"), "catch_up": span(catch_up, "--catch-up"), "missed": missed, "overlap": overlap},
        **{"starts_at": starts and starts.replace(tzinfo=UTC), "ends_at": ends and ends.replace(tzinfo=UTC)},
    }

    async def move(door: Door) -> "Answer":
        from pydantic import ValidationError

        from streams.schedules import Changes, set_schedule

        try:
            changes = Changes.model_validate({field: value for field, value in said.items() if value is not None})
        except ValidationError as error:
            part = error.errors(include_url=False)[0]
            raise CliError("bad_field", f"{'.'.join(map(str, part['loc']))}: {part['msg']}; correct the option", USAGE) from None
        return await in_time(set_schedule(door.ledger, door.pipelines, name, changes, by=me()))

    answer = accepted(act(move))
    words = {"created": "was made", "changed": "was changed", "there": "says so already; nothing changed"}
    out.show(answer, as_json, lambda: out.line(f"schedule {name} {words[answer['result']]} (revision {answer['revision']}); {_when(answer)}"))


@app.command()
def pause(name: Name, as_json: Json = False) -> None:
    """Let a schedule fire no more; runs can still be asked for.

    Example: tidemill schedules pause training-daily
    """
    from streams.schedules import pause_schedule

    _moved(name, pause_schedule, as_json, "is paused", "was paused before; nothing changed")


@app.command()
def resume(name: Name, as_json: Json = False) -> None:
    """Let a schedule fire; what it missed meanwhile by its policy.

    Example: tidemill schedules resume training-daily
    """
    from streams.schedules import resume_schedule

    _moved(name, resume_schedule, as_json, "fires again", "was not paused; nothing changed")


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """End a schedule; its history stays.

    Example: tidemill schedules delete acme-weekly
    """
    from streams.schedules import delete_schedule

    _moved(name, delete_schedule, as_json, "was deleted", "")


@app.command()
def preview(
    name: Name,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    cron: Annotated[str | None, typer.Option(help="As if it had this cron expression.")] = None,
    zone: Annotated[str | None, typer.Option(help="As if it had this time zone.")] = None,
    as_json: Json = False,
) -> None:
    """Show when a schedule fires next, in its own time zone too.

    Example: tidemill schedules preview training-daily --zone Europe/Berlin --count 5
    """

    async def question(reader: "Reader") -> "list[Fire]":
        from dataclasses import replace

        from streams.schedule import BadSchedule
        from streams.schedule import preview as fires

        found = await reader.schedule(name)
        found = replace(found, cron=cron or found.cron, zone=zone or found.zone)
        try:
            return fires(found.rule, (await reader.clock()).now(), count)
        except BadSchedule as error:
            raise CliError("bad_schedule", f"{error.field}: {error}", USAGE) from None

    found = ask(question)
    out.show([fire._asdict() for fire in found], as_json, lambda: out.table(("due (UTC)", "local time", ""), found))


@app.command()
def history(name: Name, limit: Annotated[int, typer.Option(min=1, max=1000, help="Slots shown.")] = 20, as_json: Json = False) -> None:
    """Show what became of a schedule's due times, and who changed it.

    Example: tidemill schedules history training-daily
    """

    async def question(reader: "Reader") -> "tuple[list[Slot], list[ScheduleChange]]":
        changes = await reader.schedule_changes(name)
        if not changes or changes[0].what != "deleted":
            return await reader.slots((await reader.schedule(name)).schedule_id, limit), changes
        return [], changes

    slots, changes = ask(question)

    def people() -> None:
        rows = ((slot.due, slot.tenant_id, slot.state, slot.fired_at, out.short(slot.run_id), slot.reason) for slot in slots)
        out.table(("due (UTC)", "tenant", "state", "at (UTC)", "run", "what came of it"), rows)
        edits = ((each.revision, each.what, each.changed_by, each.changed_at, json.dumps(each.rule)) for each in changes)
        out.table(("revision", "what", "by", "at (UTC)", "rule"), edits)

    out.show({"slots": slots, "changes": changes}, as_json, people)


def span(text: str | None, option: str) -> timedelta | None:
    """A duration such as 90s, 30m, 2h or 1d."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if not found or len(found[1]) > 6:
        raise CliError("bad_time", f"{option} is a duration such as 90s, 30m, 2h or 1d", USAGE)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _moved(name: str, move: "Callable[..., Awaitable[Answer]]", as_json: bool, done: str, same: str) -> None:
    answer = accepted(act(lambda door: in_time(move(door.ledger, name, by=me()))))
    said = same if answer["result"] == "there" else done
    out.show(answer, as_json, lambda: out.line(f"schedule {name} {said}" + (f"; {_when(answer)}" if "paused" in answer else "")))


def _when(answer: "Answer") -> str:
    if answer["paused"]:
        return f"it is paused: `tidemill schedules resume {answer['name']}` lets it fire"
    return f"next due {answer['next_due']}" if answer["next_due"] else "it is over"


def _row(s: "Schedule") -> tuple[Any, ...]:
    state = "paused" if s.paused else "active"
    return (s.name, s.pipeline, s.tenant_id or "all", s.cron, s.zone, state, s.next_due, s.last_due, s.missed, s.overlap, s.jitter or "", s.revision)
