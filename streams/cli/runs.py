"""The verbs that look at runs: `runs`, `show`, `why`, `events`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Json, ask
from streams.cli.refusal import USAGE, CliError

if TYPE_CHECKING:
    from streams.ledger.reader import Reader
    from streams.ledger.rows import Happening, Run, RunDetail

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or its beginning if that is unique.")]
Tenant = Annotated[str | None, typer.Option(help="Only of this tenant.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")]


def runs(
    tenant: Tenant = None,
    state: Annotated[str | None, typer.Option(help="Only in this state, e.g. running or failed.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List runs, the newest first.

    Example: tidemill runs --tenant acme --state failed
    """
    if state is not None:
        check_state(state)

    async def question(reader: "Reader") -> "list[Run]":
        if tenant is not None:
            await reader.tenant(tenant)
        return await reader.runs(tenant=tenant, state=state, limit=limit)

    found = ask(question)
    out.show(found, as_json, lambda: _table(found))


def show(
    run: RunId, io: Annotated[bool, typer.Option("--io", help="With what each step was given and gave.")] = False, as_json: Json = False
) -> None:
    """Show one run: steps with their times, causes, commands.

    Example: tidemill show 7f3a --io
    """

    async def question(reader: "Reader") -> "RunDetail":
        return await reader.run(await reader.find_run(run))

    found = ask(question)
    out.show(_document(found), as_json, lambda: _detail(found, io))


def events(run: RunId, as_json: Json = False) -> None:
    """List what happened to a run, events that were set aside included.

    Example: tidemill events 7f3a
    """

    async def question(reader: "Reader") -> "list[Happening]":
        return await reader.events(await reader.find_run(run))

    found = ask(question)
    columns = ("at", "seq", "what", "topic", "event", "code", "detail")
    rows = ((each.at, each.seq, each.kind, each.topic, out.short(each.event_id), each.code, _detail_of(each.data)) for each in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


def why(
    run: Annotated[str, typer.Argument(metavar="RUN|TENANT", help="A run's id, or how it begins; or a tenant's id.")], as_json: Json = False
) -> None:
    """Say in one sentence what a run waits for; or of a tenant, when it runs next and why it did not run.

    Example: tidemill why 7f3a, or tidemill why acme
    """

    async def question(reader: "Reader") -> dict[str, Any]:
        from schemas.tenant import is_tenant_id
        from streams.ledger.reader import NotFound
        from streams.why import reason, tenant_reasons

        try:
            facts = await reader.why(await reader.find_run(run))
        except NotFound as unknown:
            if unknown.code != "unknown_run" or not is_tenant_id(run):
                raise
            try:
                facts = await reader.why_tenant(run)
            except NotFound:
                raise unknown from None
            return facts | {"open": [each["run_id"] for each in facts["open"]], "sentences": tenant_reasons(facts, limits())}
        return {"run_id": facts["run_id"], "tenant_id": facts["tenant_id"], **reason(facts, limits())._asdict()}

    def limits() -> dict[str, int]:
        from streams.cli.frame import load_pipelines, settings

        return load_pipelines(settings()).limits

    found = ask(question)
    said = found["sentences"] if "sentences" in found else [f"run {out.short(found['run_id'])} of {found['tenant_id']} {found['sentence']}"]
    out.show(found, as_json, lambda: out.line("\n".join(said)))


def check_state(state: str) -> None:
    from schemas.states import RunState

    if state not in RunState.__members__.values():
        raise CliError("bad_state", f"there is no state {out.harmless(state)[:40]}; there are: {', '.join(RunState)}", USAGE)


def headline(run: "Run") -> str:
    """One sentence about a run."""
    took = (run.finished_at - run.requested_at).total_seconds() if run.finished_at else None
    said = f"run {out.short(run.run_id)} of {run.tenant_id}: {run.outcome or run.state}"
    said += f" in {out.seconds(took)}" if took is not None else f" ({run.stage})" if run.stage else ""
    return said + (f"; {run.code}: {run.reason or 'no reason given'}" if run.code else "")


def _table(found: "list[Run]") -> None:
    columns = ("run", "tenant", "pipeline", "state", "stage", "requested (UTC)", "took", "reason")
    out.table(columns, ((out.short(r.run_id), r.tenant_id, r.pipeline, r.state, r.stage, r.requested_at, _took(r), _why(r)) for r in found))


def _took(run: "Run") -> float | None:
    return (run.finished_at - run.started_at).total_seconds() if run.finished_at and run.started_at else None


def _why(run: "Run") -> str:
    return f"{run.code}: {run.reason or ''}".strip(": ") if run.code else ""


def _document(found: "RunDetail") -> dict[str, Any]:
    """The run's own fields on the top level, as in `runs`."""
    from dataclasses import asdict

    facts = asdict(found)
    run: dict[str, Any] = facts.pop("run")
    return run | facts


def _detail(found: "RunDetail", io: bool) -> None:
    run = found.run
    out.line(headline(run))
    out.line(f"{run.run_id}  pipeline {run.pipeline} {run.pipeline_version}, requested {out.word(run.requested_at)} UTC, {run.causes} cause(s)")
    columns = ("stage", "state", "round", "attempt", "queued", "took", "waited", "job", "worker", "due (UTC)", "trouble")
    out.table(
        columns,
        (
            (
                s.stage,
                s.state,
                s.round,
                s.attempt,
                s.queued,
                s.seconds,
                s.waited,
                s.job_id,
                s.slot,
                s.due_at if not s.finished_at else None,
                _trouble(s),
            )
            for s in found.steps
        ),
    )
    if found.effects:
        out.table(("command", "key", "status", "at (UTC)"), ((e.command, e.key, e.status, e.at) for e in found.effects), title="commands answered")
    if found.run.causes > 1 or io:
        rows = ((out.short(c.event_id), c.at, out.to_json(c.request).decode()) for c in found.causes)
        out.table(("cause", "at (UTC)", "request"), rows, title="causes, the newest decides")
    if io:
        for step in found.steps:
            out.line(f"{step.stage} was given {step.input_type}: {out.to_json(step.input).decode()}")
            if step.output is not None:
                out.line(f"{step.stage} gave {step.output_type}: {out.to_json(step.output).decode()}")


def _trouble(step: Any) -> str:
    waiting = f"waits for {step.waiting_for}" if step.waiting_for else ""
    error = f"{step.code}: {step.error or ''}".strip(": ") if step.code else ""
    return "; ".join(part for part in (waiting, error) if part)


def _detail_of(data: dict[str, Any] | None) -> str:
    """The telling parts of a journal entry."""
    telling = ("stage", "state", "round", "attempt", "outcome", "code", "error", "by")
    return " ".join(f"{name}={data[name]}" for name in telling if data and data.get(name) is not None)
