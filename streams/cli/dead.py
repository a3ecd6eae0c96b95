"""`tidemill dead …`: what could not be used, and its way back."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time
from streams.cli.moves import Rate
from streams.cli.refusal import FAILED, USAGE, CliError
from streams.cli.runs import Limit, Tenant

if TYPE_CHECKING:
    from uuid import UUID

    from streams.ledger.ledger import Answer
    from streams.ledger.reader import Reader
    from streams.ledger.rows import DeadRecord

app = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, redrive, drop.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters, or their beginnings.")]
Code = Annotated[str | None, typer.Option(help="Only with this code.")]
Every = Annotated[bool, typer.Option("--all", help="All open ones that --tenant and --code leave.")]


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="open, redriven, dropped, or all.")] = "open",
    tenant: Tenant = None,
    code: Code = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, the newest first.

    Example: tidemill dead list --code unknown_tenant
    """
    if state not in ("open", "redriven", "dropped", "all"):
        raise CliError("bad_state", "--state is open, redriven, dropped or all", USAGE)
    found = ask(lambda reader: reader.dead_letters(state=None if state == "all" else state, tenant=tenant, code=code, limit=limit))
    columns = ("id", "at (UTC)", "tenant", "topic", "partition", "offset", "code", "state", "why")
    rows = ((out.short(d.id), d.at, d.tenant_id, d.topic, d.partition, d.offset, d.code, d.state, d.sentence) for d in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


@app.command()
def show(letter: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show one dead letter with its bytes and headers.

    Example: tidemill dead show 4be1
    """

    async def question(reader: "Reader") -> "DeadRecord":
        return await reader.dead_letter(await reader.find_dead_letter(letter))

    found = ask(question)
    document = _document(found)
    out.show(document, as_json, lambda: out.table(("dead letter", document["id"]), [(key, out.word(value)) for key, value in document.items()]))


@app.command()
def redrive(ids: Ids = None, every: Every = False, tenant: Tenant = None, code: Code = None, rate: Rate = 5, as_json: Json = False) -> None:
    """Accept the events of dead letters now that their cause is mended; each at most once, whoever asks.

    Example: tidemill dead redrive --all --code unknown_tenant --rate 10
    """

    async def move(door: Door) -> list["Answer"]:
        from streams.redrive import redrive as take_back

        answers = []
        for n, each in enumerate(await _chosen(door.reader, ids, every, tenant, code)):
            if n:
                await asyncio.sleep(1 / rate)
            record = await door.reader.dead_letter(each)
            answers.append({"id": str(each)} | await in_time(take_back(door.ledger, door.pipelines, record)))
        return answers

    _report(act(move), as_json)


@app.command()
def drop(ids: Ids = None, every: Every = False, tenant: Tenant = None, code: Code = None, as_json: Json = False) -> None:
    """Settle dead letters without their events; they stay listed as dropped.

    Example: tidemill dead drop 4be1
    """

    async def move(door: Door) -> list["Answer"]:
        from streams.redrive import drop as let_go

        return [{"id": str(each)} | await in_time(let_go(door.ledger, each)) for each in await _chosen(door.reader, ids, every, tenant, code)]

    _report(act(move), as_json)


async def _chosen(reader: "Reader", ids: list[str] | None, every: bool, tenant: str | None, code: str | None) -> "list[UUID]":
    if every is bool(ids) or (ids and (tenant or code)):
        raise CliError("wrong_usage", "name dead letters, or say --all with --tenant and --code as you like", USAGE)
    if ids:
        return [await reader.find_dead_letter(text) for text in ids]
    found = await reader.dead_letters(tenant=tenant, code=code, limit=1_000_000)
    return [letter.id for letter in reversed(found)]  # in the order they came


def _report(answers: list["Answer"], as_json: bool) -> None:
    rows = [(a["id"][:8], a["result"], out.short(a.get("run_id")), a.get("code"), a.get("sentence")) for a in answers]
    out.show(answers, as_json, lambda: out.table(("id", "result", "run", "code", "why"), rows))
    if any(answer["result"] == "refused" for answer in answers):
        raise typer.Exit(FAILED)


def _document(found: "DeadRecord") -> dict[str, Any]:
    import base64
    from dataclasses import asdict

    facts = asdict(found.letter) | {"key": found.key, "value": found.value, "cut": found.cut, "sha256": found.sha256.hex()}
    return facts | {"headers": {name: base64.b64decode(text).decode(errors="replace") for name, text in found.headers}}
