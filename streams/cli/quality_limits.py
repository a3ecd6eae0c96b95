"""`tidemill quality checks` and `set`: which limits hold, for everybody and for one tenant, where they come from, and how a tenant gets its own."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time, me, settings
from streams.cli.refusal import USAGE, CliError, accepted

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer
    from streams.ledger.reader import Reader
    from streams.quality_limits import LimitChanges

Row = dict[str, Any]


def checks(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="As they hold for this tenant.")] = None, as_json: Json = False
) -> None:
    """List the checks with their limits and where these come from: percent for shares, hours for ages, robust z-scores for unusual numbers.

    Example: tidemill quality checks acme
    """
    from streams.quality_limits import limits_of

    found = limits_of(settings(), _facts(tenant) if tenant is not None else {})
    columns = ("check", "suite", "told above", "blocks above", "origin", "title")
    rows = ((each["check"], each["suite"], *_limits(each), each["origin"], each["title"]) for each in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


def set_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="A tenant id.")],
    limit: Annotated[list[str] | None, typer.Option(metavar="CHECK=TOLD[:BLOCKS]", help="Told above, and blocks training above.")] = None,
    off: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Switch this check off for the tenant.")] = None,
    reset: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Back to the installation's limits, and on.")] = None,
    types: Annotated[str | None, typer.Option(metavar="TYPE,TYPE…", help="The tenant's interaction types; '' for the installation's.")] = None,
    gate: Annotated[str | None, typer.Option(metavar="on|off", help="Whether verdicts may block the tenant's training.")] = None,
    as_json: Json = False,
) -> None:
    """Give a tenant limits of its own, or switch checks off; the next verdict goes by them, and the tenant's journal says who did it.

    Example: tidemill quality set acme --limit user_interactions.unique=0.5:2 --off items.fresh
    """
    wanted = _changes(limit or [], off or [], reset or [], types, gate)

    async def move(door: Door) -> "Answer":
        from streams.quality_limits import set_limits

        return await in_time(set_limits(door.ledger, door.reader, door.pipelines.settings, tenant, wanted, by=me()))

    answer = accepted(act(move))
    said = "is so already; nothing changed" if answer["result"] == "there" else "is judged by its own limits from the next verdict on"
    out.show(answer, as_json, lambda: out.line(f"{tenant} {said}: `tidemill quality checks {tenant}`"))


def _changes(limits: list[str], off: list[str], reset: list[str], types: str | None, gate: str | None) -> "LimitChanges":
    from pydantic import ValidationError

    from streams.quality_limits import LimitChanges

    allowed = None if types is None else [each.strip() for each in types.split(",") if each.strip()]
    said = {"limits": dict(map(_limit, limits)), "off": off, "reset": reset, "interaction_types": allowed, "gate": gate}
    try:
        return LimitChanges.model_validate(said)
    except ValidationError as error:
        part = error.errors(include_url=False, include_input=False)[0]
        raise CliError("bad_limit", f"{'.'.join(map(str, part['loc']))}: {part['msg']}", USAGE) from None


def _limit(word: str) -> tuple[str, Row]:
    check, equals, numbers = word.partition("=")
    told, colon, blocks = numbers.partition(":")
    if not equals or not check or not told or (colon and not blocks):
        raise CliError("bad_limit", f"{word[:80]} is not CHECK=TOLD or CHECK=TOLD:BLOCKS, such as user_interactions.unique=0.5:2", USAGE)
    return check, {"medium": told, "high": blocks or None}


def _facts(tenant: str) -> Row:
    async def question(reader: "Reader") -> Row:
        return (await reader.tenant_facts(tenant))[1]

    return ask(question)


def _limits(check: Row) -> tuple[str, str]:
    if check["off"]:
        return "off", "off"
    if check["kind"] == "age" and check["high"] is not None:
        return "", amount(check["high"], check["unit"])
    return amount(check["medium"], check["unit"]), amount(check["high"], check["unit"])


def amount(value: Any, unit: str | None) -> str:
    """A number with its unit."""
    if value is None:
        return ""
    return f"{value:g} {unit or ''}".strip() if isinstance(value, int | float) else str(value)
