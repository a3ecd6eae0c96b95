"""The verbs that hold pipelines and tenants: `pause`, `resume`, `pauses`."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time, me
from streams.cli.refusal import USAGE, CliError, accepted

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer

Pipeline = Annotated[str | None, typer.Option(help="This pipeline; with --tenant: of this tenant alone.")]
Tenant = Annotated[str | None, typer.Option(help="This tenant.")]


def pause(
    reason: Annotated[str, typer.Option(help="Why; shown wherever somebody waits for it.")],
    pipeline: Pipeline = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Let a pipeline or a tenant begin nothing; requests are accepted and wait.

    Example: tidemill pause --pipeline training --reason "engine upgrade"
    """
    _say("pause", pipeline, tenant, reason, as_json)


def resume(pipeline: Pipeline = None, tenant: Tenant = None, reason: Annotated[str, typer.Option(help="Why.")] = "", as_json: Json = False) -> None:
    """End a pause; due times that were held fire by their schedule's policy.

    Example: tidemill resume --pipeline training
    """
    _say("resume", pipeline, tenant, reason, as_json)


def pauses(past: Annotated[bool, typer.Option("--past", help="Also those that are over.")] = False, as_json: Json = False) -> None:
    """List who is paused, by whom and why.

    Example: tidemill pauses --past
    """
    found = ask(lambda reader: reader.pauses(past=past))
    columns = ("pipeline", "tenant", "since (UTC)", "by", "reason", "ended (UTC)", "by", "reason")
    rows = ((p.pipeline or "all", p.tenant_id or "all", p.since, p.paused_by, p.reason, p.ended_at, p.ended_by, p.end_reason) for p in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


def _say(what: str, pipeline: str | None, tenant: str | None, reason: str, as_json: bool) -> None:
    if pipeline is None and tenant is None:
        raise CliError("nothing_named", f"say what to {what}: --pipeline, --tenant, or both", USAGE)

    async def move(door: Door) -> "Answer":
        from streams import pauses

        said = pauses.pause if what == "pause" else pauses.resume
        return await in_time(said(door.ledger, door.pipelines, pipeline=pipeline, tenant_id=tenant, reason=reason, by=me()))

    answer = accepted(act(move))
    whom = " of ".join(filter(None, (f"pipeline {pipeline}" if pipeline else "", f"tenant {tenant}" if tenant else "")))
    words = {"paused": "is paused: what is asked for waits", "resumed": "goes on"}
    same = "was paused before; nothing changed" if what == "pause" else "was not paused by a pause of its own; nothing changed"
    out.show(answer, as_json, lambda: out.line(f"{whom} {words.get(answer['result'], same)}"))
