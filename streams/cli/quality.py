"""`tidemill quality …` and `tidemill incidents`: the tenants' data, measured and judged, and what somebody was told about it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, in_time, me, reading, settings, unless_held
from streams.cli.frame import run as run_async
from streams.cli.quality_limits import amount, checks, set_
from streams.cli.refusal import FAILED, NOT_THERE, USAGE, CliError, accepted
from streams.cli.runs import Limit

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer
    from streams.ledger.rows import Run
    from streams.quality import QualityReader

app = typer.Typer(no_args_is_help=True, help="The tenants' data: run, show, history, checks, set, list, allow.")
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant id.")]
_COLUMNS = ("check", "status", "severity", "found", "told above", "blocks above", "rows", "of", "note")
Row = dict[str, Any]


class IncidentState(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"
    ALL = "all"


@app.command()
def run(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="A tenant id.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every active tenant.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the verdict is there; exit 1 unless it is pass or warn.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 600,
    as_json: Json = False,
) -> int:
    """Measure and judge a tenant's data now, all of it.

    Example: tidemill quality run acme --wait
    """
    if (tenant is None) is not all_:
        raise CliError("wrong_usage", "name a tenant, or --all of them", USAGE)

    async def move(door: Door) -> int:
        answers = await _ask(door, tenant)
        if not wait:
            out.show(answers, as_json, lambda: out.table(("tenant", "run", "result"), ((a["tenant_id"], a["run_id"], a["result"]) for a in answers)))
            return 0
        out.say(f"measuring {tenant or f'{len(answers)} tenants'} ...")
        verdicts = [await _verdict(run) for run in await _until_over(door, [UUID(answer["run_id"]) for answer in answers], timeout)]
        out.show(verdicts, as_json, lambda: out.table(("tenant", "verdict", "failing"), map(_verdict_row, verdicts)))
        if without := [each for each in verdicts if each["verdict"] is None]:
            raise CliError("no_verdict", _no_verdict(without))
        return 0 if all(each["verdict"] in ("pass", "warn") for each in verdicts) else FAILED

    return act(move)


@app.command()
def show(
    tenant: TenantId,
    rows: Annotated[bool, typer.Option("--rows", help="Look at a sample of the tenant's interactions row by row, now.")] = False,
    as_json: Json = False,
) -> None:
    """Show a tenant's newest verdict: every check's number beside its limit.

    Example: tidemill quality show acme --rows
    """
    if rows:
        return _show_rows(tenant, as_json)
    found, now = run_async(_at(lambda reader: reader.tenant(tenant), tenant))
    if found is None:
        raise CliError("no_verdict", f"the data of {tenant} has never been measured; `tidemill quality run {tenant}`")

    def people() -> None:
        head = "not watched: the warehouse does not know this tenant" if not found["watched"] else found["verdict"]
        out.line(f"{tenant}: {head} at {out.word(found['at'])} UTC")
        if (given := found["allowance"]) and datetime.fromisoformat(given["until"]) > now:
            out.line(f"allowed to train until {given['until'][:16].replace('T', ' ')} UTC by {given['by']}: {given['reason']}")
        out.table(_COLUMNS, map(_check_row, found["checks"]))

    return out.show(found, as_json, people)


@app.command()
def history(tenant: TenantId, limit: Limit = 30, as_json: Json = False) -> None:
    """List a tenant's verdicts, the newest first.

    Example: tidemill quality history acme
    """
    found = run_async(_found(lambda reader: reader.history(tenant, limit), tenant))
    columns = ("at (UTC)", "verdict", "failing", "told")
    if not found and not as_json:
        return out.line(f"{tenant}: never measured; `tidemill quality run {tenant}`")
    return out.show(
        found, as_json, lambda: out.table(columns, ((r["at"], r["verdict"], _failing(r["checks"]), _told(r["decisions"])) for r in found))
    )


@app.command("list")
def list_(limit: Limit = 1000, as_json: Json = False) -> None:
    """List all tenants, the most troubled first; suspended ones last.

    Example: tidemill quality list
    """
    found, now = run_async(_at(lambda reader: reader.tenants(limit)))
    columns = ("tenant", "verdict", "failing", "open incidents", "measured (UTC)", "allowed until (UTC)")
    rows = ((r["tenant_id"], _stands(r), r["failing"], r["incidents"], r["at"], _still(r["allowed_until"], now)) for r in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


app.command()(checks)
app.command("set")(set_)


@app.command()
def allow(
    tenant: TenantId,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the tenant's journal.")],
    hours: Annotated[float | None, typer.Option(min=0.01, max=24 * 90, help="How long it holds; by default TIDEMILL_QUALITY__ALLOWED_FOR.")] = None,
    as_json: Json = False,
) -> None:
    """Let a tenant train in spite of its verdict for a while; a run that was blocked is asked for again.

    Example: tidemill quality allow acme --reason "backfill under way, see ticket 42"
    """
    hold = timedelta(hours=hours) if hours is not None else settings().quality.allowed_for

    async def move(door: Door) -> "Answer":
        from streams.quality import allow as allow_tenant

        return await in_time(allow_tenant(door.ledger, door.pipelines, tenant, reason=reason, by=me(), hold=hold))

    answer = accepted(act(move))
    again = f"; run {answer['run_id']} was accepted" if answer["run_id"] else ""
    out.show(answer, as_json, lambda: out.line(f"{tenant} may train until {out.word(answer['until'])} UTC{again}"))


def incidents(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant.")] = None,
    state: Annotated[IncidentState, typer.Option(help="Open, resolved or all.")] = IncidentState.OPEN,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List incidents, the newest first.

    Example: tidemill incidents --state all
    """
    wanted = None if state is IncidentState.ALL else str(state)
    found = run_async(_found(lambda reader: reader.incidents(tenant=tenant, state=wanted, limit=limit)))
    columns = ("incident", "tenant", "check", "state", "severity", "opened (UTC)", "resolved (UTC)", "told", "not delivered", "title")
    rows = (
        (out.short(r["id"]), r["tenant_id"], r["check_name"], r["state"], r["severity"], r["opened_at"], r["resolved_at"], r["transitions"],
         r["undelivered"] or None, r["title"])
        for r in found
    )  # fmt: skip
    out.show(found, as_json, lambda: out.table(columns, rows))


def _show_rows(tenant: str, as_json: bool) -> None:
    from streams.settings import load

    out.say(f"looking at a sample of the rows of {tenant} ...")

    async def main() -> list[Row]:
        from streams.ledger.connection import Connection
        from streams.quality import tenant_settings
        from streams.stage import GiveUp

        own = settings()
        async with reading(own) as reader:
            clock = await reader.clock()
            await reader.tenant(tenant)
            connection = Connection(own.ledger.dsn.get_secret_value(), name="tidemill-cli")
            try:
                mine = await tenant_settings(connection, tenant)
            finally:
                await connection.close()
        try:
            found: list[Row] = await load(own.quality.tools).rows(own, tenant, mine, clock.now())
        except GiveUp as reason:
            raise CliError(reason.code, reason.sentence, NOT_THERE if reason.code == "warehouse_away" else FAILED) from None
        return found

    found = run_async(main())
    broken = sorted((row for row in found if row["broken"]), key=lambda row: -row["broken"])

    def people() -> None:
        looked = f"{found[0]['of']} interactions were looked at (those that break a rule, and the newest)" if found else "there is no interaction"
        out.line(f"{tenant}: {looked}; {len(found) - len(broken)} of {len(found)} expectations hold for every one")
        if broken:
            rows = ((r["expectation"], r["column"], r["broken"], "; ".join(_key(row) for row in r["rows"][:3])) for r in broken)
            out.table(("expectation", "column", "rows", "the first of them"), rows)

    out.show(found, as_json, people)


async def _ask(door: Door, tenant: str | None) -> "list[Answer]":
    """One tenant's run, or everybody's."""
    from streams.everyone import asked, carry_on, request_all
    from streams.requests import request_run

    await unless_held(door)
    if tenant is not None:
        answer = accepted(await in_time(request_run(door.ledger, door.pipelines, tenant_id=tenant, pipeline="quality", source="cli")))
        return [{"tenant_id": tenant, "run_id": answer["run_id"], "result": answer["result"]}]
    answer = accepted(await in_time(request_all(door.ledger, door.pipelines, pipeline="quality", source="cli")))
    await carry_on(door.ledger, door.pipelines, answer["expansion"])
    return await asked(door.ledger, answer["expansion"])


async def _until_over(door: Door, runs: list[UUID], timeout: float) -> "list[Run]":
    """These runs as soon as they are over, waited for the oldest first."""
    over = []
    try:
        async with asyncio.timeout(timeout):
            for run_id in runs:
                while (found := (await door.reader.run(run_id)).run).outcome is None:  # noqa: ASYNC110  # a worker elsewhere sets no event of ours
                    await asyncio.sleep(0.25)
                over.append(found)
            return over
    except TimeoutError:
        raise CliError("still_measuring", f"there is no verdict after {timeout:g} s; look with `tidemill runs`, and that a worker is alive") from None


async def _found(question: "Callable[[QualityReader], Awaitable[Any]]", tenant: str | None = None) -> Any:
    """The answer to a question about quality."""
    return (await _at(question, tenant))[0]


async def _at(question: "Callable[[QualityReader], Awaitable[Any]]", tenant: str | None = None) -> tuple[Any, datetime]:
    """The answer and the ledger's time, on a connection of its own; a tenant that does not exist ends the command."""
    from streams.ledger.connection import Connection
    from streams.quality import QualityReader

    own = settings()
    async with reading(own) as known:
        if tenant is not None:
            await known.tenant(tenant)
        connection = Connection(own.ledger.dsn.get_secret_value(), name="tidemill-cli")
        try:
            return await question(QualityReader(connection)), (await known.clock()).now()
        finally:
            await connection.close()


async def _verdict(run: "Run") -> Row:
    """The verdict that this run came to, or a later one; an older one says nothing about the data that was to be measured."""
    found = await _found(lambda reader: reader.tenant(run.tenant_id))
    facts: Row = {"tenant_id": run.tenant_id, "verdict": None, "watched": None, "failing": []}
    if found is None or (found["run_id"] != run.run_id and found["at"] < run.requested_at):
        return facts | {"run_id": run.run_id, "outcome": run.outcome}
    return facts | {"verdict": found["verdict"], "watched": found["watched"], "failing": _failing_names(found["checks"])}


def _no_verdict(without: list[Row]) -> str:
    first, others = without[0], f"; so did {len(without) - 1} more" if len(without) > 1 else ""
    ended = f"the run that measured {first['tenant_id']} ended {first['outcome']} without a verdict"
    return f"{ended}{others}; `tidemill show {first['run_id']}` says why"


def _stands(row: Row) -> str:
    if row["status"] == "suspended":
        return "suspended"
    return str(row["verdict"]) if row["watched"] else "not watched"


def _still(until: datetime | None, now: datetime) -> datetime | None:
    """An allowance's end, as long as it is to come."""
    return until if until is not None and until > now else None


def _verdict_row(row: Row) -> tuple[Any, ...]:
    return row["tenant_id"], "not watched" if row["watched"] is False else row["verdict"], ", ".join(row["failing"])


def _failing_names(checks: list[Row]) -> list[str]:
    from streams.quality import TROUBLE

    return [check["check"] for check in checks if check["status"] in TROUBLE]


def _failing(checks: list[Row]) -> str:
    return ", ".join(_failing_names(checks))


def _told(decisions: list[Row]) -> str:
    return ", ".join(f"{each['action']} {each['check']}" for each in decisions if each["action"] not in ("skip", "calm"))


def _check_row(check: Row) -> list[Any]:
    unit, limits = check.get("unit"), (check.get("limit"), check.get("high"))
    if check.get("unit") == "h" and check.get("high") is not None:
        limits = (None, check["high"])  # an age has one limit, and here it blocks
    found = [amount(value, unit) for value in (check.get("value"), *limits)]
    return [check["check"], check["status"], check.get("severity"), *found, check.get("count"), check.get("of"), check.get("note")]


def _key(row: Row) -> str:
    return " ".join(str(value) for value in row.values())
