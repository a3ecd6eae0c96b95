"""`tidemill doctor`: is everything there, and is anything wrong? Exit 3 when a service is not there, 1 when something else is wrong."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import typer

from streams.cli import out
from streams.cli.frame import Json, load_pipelines, reading, settings
from streams.cli.frame import run as run_async
from streams.cli.refusal import FAILED, NOT_THERE, CliError

if TYPE_CHECKING:
    from streams.ledger.reader import Reader
    from streams.ledger.rows import Sweep
    from streams.settings import Settings

OLD = 30.0
"""Seconds after which an event that is not on Kafka yet is a sign of trouble."""


class Finding(NamedTuple):
    name: str
    status: str
    """ok, down (a service that is not there) or wrong."""
    detail: str
    latency_ms: float | None = None


def doctor(as_json: Json = False) -> None:
    """Check every dependency, the topics, the workers and what is left undone.

    Example: tidemill doctor --json
    """
    found = run_async(_examine(settings()))
    document = {"status": _status(found), "checks": [each._asdict() for each in found]}
    rows = ((f.name, f.status, f"{f.latency_ms:.1f} ms" if f.latency_ms is not None else "", f.detail) for f in found)
    out.show(document, as_json, lambda: out.table(("check", "status", "latency", "detail"), rows))
    if bad := [each for each in found if each.status != "ok"]:
        out.say("; ".join(f"{each.name} is {each.status}" for each in bad))
        raise typer.Exit(NOT_THERE if any(each.status == "down" for each in bad) else FAILED)


def _status(found: list[Finding]) -> str:
    worst = {each.status for each in found}
    return "down" if "down" in worst else "wrong" if "wrong" in worst else "ok"


async def _examine(settings: "Settings") -> list[Finding]:
    findings = await _services(settings)
    there = {each.name for each in findings if each.status == "ok"}
    if "kafka" in there:
        findings.append(await _topics(settings))
    findings.append(_agents(settings))
    if "ledger" in there:
        async with reading(settings) as reader:
            findings += await _work(reader, settings)
    return findings


async def _services(settings: "Settings") -> list[Finding]:
    """Each server and neighbour, asked at once."""
    from streams.web.checks import open_health

    async with AsyncExitStack() as stack:
        health = await stack.enter_async_context(open_health(settings, table=lambda: _view(settings)))
        readiness = await health.readiness()
    found = [Finding(each.name, "ok" if each.ok else "down", each.reason or "answers", each.latency_ms) for each in readiness.findings]
    return [each._replace(name="view", status="ok" if each.status == "ok" else "wrong") if each.name == "table" else each for each in found]


async def _view(settings: "Settings") -> None:
    """The view process says itself whether its table is whole."""
    import httpx

    from streams.web.health import PATIENCE, Unwell

    url = f"http://{settings.web.host}:{settings.web.port}"
    try:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
            answer = (await http.get(f"{url}/readyz")).json()
        table = answer["dependencies"]["table"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        raise Unwell(f"nobody serves the pages at {url}; start `tidemill worker --role view`") from None
    if table["status"] != "ok":
        raise Unwell(str(table["reason"]))


async def _topics(settings: "Settings") -> Finding:
    from streams.kafka import open_admin
    from streams.topics import declared, differences

    async with open_admin(settings.kafka) as admin:
        wrong = await differences(admin, declared(settings.kafka))
    return Finding("topics", "wrong" if wrong else "ok", "; ".join(wrong) or "as declared")


def _agents(settings: "Settings") -> Finding:
    try:
        carried = load_pipelines(settings)
    except CliError as error:
        return Finding("pipelines", "wrong", error.sentence)
    return Finding("pipelines", "ok", ", ".join(f"{each.name} {each.version} ({len(each.stages)} stages)" for each in carried.all))


async def _work(reader: "Reader", settings: "Settings") -> list[Finding]:
    """Who works, and what is left undone."""
    workers, left, swept = await reader.workers(), await reader.backlog(), await reader.sweep()
    alive = [each for each in workers if each.alive]
    lost = [each for each in workers if not each.alive and each.stopped_at is None]
    said = f"{len(alive)} alive with {sum(each.steps for each in alive)} steps in hand"
    said += f", without a sign of life: slot {', '.join(str(each.slot) for each in lost)}" if lost else ""
    old = left.outbox_age is not None and left.outbox_age > OLD
    late = f", the oldest for {out.seconds(left.outbox_age)}" if left.outbox_age else ""
    held = await reader.hold(settings.runtime.outbox_max)
    late += f"; schedules hold and requests are refused ({held.code}: {held.sentence})" if held else ""
    return [
        _judge("workers", not alive, said if alive else f"none is alive, so nothing moves; start `tidemill worker` ({said})"),
        _judge("gaps", left.gaps > 0, f"{left.gaps} offset ranges not accounted for" if left.gaps else "every offset is accounted for"),
        _judge("dead letters", left.dead_letters > 0, f"{left.dead_letters} open; `tidemill dead list`" if left.dead_letters else "none open"),
        _judge("incidents", left.incidents > 0, f"{left.incidents} open; `tidemill incidents`" if left.incidents else "none open"),
        _judge("outbox", old or held is not None, f"{left.outbox} events wait to be published{late}"),
        _judge("unpublishable", left.unpublishable > 0, f"{left.unpublishable} events were refused by Kafka for good"),
        _judge("steps", False, f"{left.steps_due} due and not yet claimed"),
        _judge("index folders", False, _swept(swept)),
    ]


def _swept(swept: "Sweep") -> str:
    if swept.ended_at is None:
        return "not swept yet"
    left = f", {swept.waiting} that nothing names are kept until they are old enough" if swept.waiting else ""
    left += f", {swept.unknown} are of runs that this ledger does not know" if swept.unknown else ""
    return (
        f"{swept.folders} that nothing named were deleted so far ({swept.bytes:,} bytes), the last look was at {swept.ended_at:%Y-%m-%d %H:%M}{left}"
    )


def _judge(name: str, wrong: bool, detail: str) -> Finding:
    return Finding(name, "wrong" if wrong else "ok", detail)
