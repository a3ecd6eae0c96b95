"""`tidemill trigger`: ask for runs, and wait for their end if wanted."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, in_time, unless_held
from streams.cli.refusal import USAGE, CliError, accepted
from streams.cli.wait import follow

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer


def trigger(
    tenant: Annotated[str | None, typer.Argument(help="Whose model to train.")] = None,
    key: Annotated[str | None, typer.Option(help="Asking twice under one key gives one run.")] = None,
    config: Annotated[str | None, typer.Option(metavar="JSON", help="Training config, e.g. '{\"epochs\": 20}'.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; shown with the run.")] = None,
    pipeline: Annotated[str, typer.Option(help="Which pipeline.")] = "training",
    every: Annotated[bool, typer.Option("--all", help="Every active tenant.")] = False,
    where: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only tenants of this label, owner or status; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say for whom, or for one tenant what would come of it.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run is over; exit 1 unless it succeeds.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 7 * 3600,
    as_json: Json = False,
) -> None:
    """Ask for a run.

    Example: tidemill trigger acme --key nightly-42 --wait, or tidemill trigger --where tier=gold --dry-run
    """
    if (tenant is None) is not (every or bool(where)):
        raise CliError("no_tenant", "name a tenant, or say --all for every active one, or --where for some of them", USAGE)
    knobs = read_config(config)

    async def move(door: Door) -> tuple[list["Answer"], bool]:
        if tenant is not None:
            answers = [await _ask(door, tenant, dry_run, key, knobs, reason, pipeline)]
        else:
            answers = await _ask_all(door, where or [], dry_run, key, knobs, reason, pipeline)
        if wait and not dry_run:
            return answers, await follow(door.reader, [answer["run_id"] for answer in answers], timeout, as_json)
        return answers, True

    answers, well = act(move)
    if dry_run or not wait:
        document: Any = answers[0] if tenant is not None else answers
        say = _said if not dry_run else _tried if tenant is not None else (lambda answer: answer["tenant_id"])
        out.show(document, as_json, lambda: out.line("\n".join(map(say, answers)) or "no active tenant is meant"))
    if not well:
        raise typer.Exit(1)


async def _ask_all(
    door: Door, where: list[str], dry: bool, key: str | None, config: dict[str, Any] | None, reason: str | None, pipeline: str
) -> list["Answer"]:
    """The request for all is in the ledger before the first tenant's; this process and any worker carry it on."""
    from streams.everyone import asked, carry_on, chosen_by, dry_run, request_all

    chosen = chosen_by(where)
    if "result" in chosen:
        accepted(chosen)
    if dry:
        tried = dry_run(door.ledger, door.pipelines, pipeline=pipeline, chosen=chosen, config=config, reason=reason)
        return [{"tenant_id": each} for each in accepted(await in_time(tried))["tenants"]]
    await unless_held(door)
    answer = accepted(
        await in_time(
            request_all(door.ledger, door.pipelines, pipeline=pipeline, chosen=chosen, request_key=key, config=config, reason=reason, source="cli")
        )
    )
    await carry_on(door.ledger, door.pipelines, answer["expansion"])
    return await asked(door.ledger, answer["expansion"])


async def _ask(door: Door, tenant: str, dry: bool, key: str | None, config: dict[str, Any] | None, reason: str | None, pipeline: str) -> "Answer":
    from streams.requests import request_run

    await unless_held(door)
    said: dict[str, Any] = {"tenant_id": tenant, "pipeline": pipeline, "request_key": key, "config": config, "reason": reason}
    return {"tenant_id": tenant} | accepted(await in_time(request_run(door.ledger, door.pipelines, **said, dry_run=dry)))


def _tried(answer: "Answer") -> str:
    run, tenant = answer["run_id"], answer["tenant_id"]
    return {
        "run": f"a run of {tenant} would begin",
        "pending": f"a run of {tenant} would follow when the active one is over",
        "merged": f"it would be merged into run {run} of {tenant}, which follows when the active one is over",
    }.get(answer["result"], f"this key asked for run {run} of {tenant} before; nothing new would be made")


def _said(answer: "Answer") -> str:
    run, tenant = answer["run_id"], answer["tenant_id"]
    return {
        "run": f"run {run} of {tenant} begins",
        "pending": f"run {run} of {tenant} follows when the active one is over",
        "merged": f"merged into run {run} of {tenant}, which follows when the active one is over",
    }.get(answer["result"], f"this key asked for run {run} of {tenant} before; nothing new was made")


def read_config(text: str | None) -> dict[str, Any] | None:
    """The JSON of `--config`, held to the same strictness as an event."""
    if text is None:
        return None
    from schemas.json_strict import Flaw, parse

    try:
        found = parse(text.encode(), duplicates=True)
    except Flaw as flaw:
        raise CliError(flaw.code, f"--config: {flaw.sentence.replace('the value', 'it')}", USAGE) from None
    except UnicodeEncodeError:
        raise CliError("bad_utf8", "--config is not UTF-8", USAGE) from None
    if not isinstance(found, dict):
        raise CliError("not_an_object", f'--config is {json.dumps(found)[:60]}, not a JSON object; write it as {{"epochs": 20}}', USAGE)
    return found
