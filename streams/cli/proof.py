"""The verbs that prove: `prove`, `verify`, `rebuild`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Json, run, settings
from streams.cli.long import open_ledger
from streams.cli.refill import refill
from streams.cli.refusal import FAILED, NOT_THERE, USAGE, CliError

if TYPE_CHECKING:
    import asyncpg

    from streams.proof.check import Checked
    from streams.proof.compare import Difference
    from streams.proof.prove import Proof
    from streams.proof.rebuild import Rebuilt
    from streams.proof.verify import Verified
    from streams.settings import Settings

SHOWN = 50
"""Differences that people are shown; --json has more."""


def rebuild(
    check: Annotated[bool, typer.Option("--check", help="Only fold and compare; nothing is written.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    online: Annotated[bool, typer.Option("--online", help="Also while workers run: what they have in hand is refused and done again.")] = False,
    from_topics: Annotated[bool, typer.Option("--from-topics", help="The ledger was lost: fill an empty one with what Kafka knows.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="The ledger was restored from a backup: add what Kafka knows beyond it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Write runs, steps and pipeline heads anew from the journal, or compare them with it; or get a lost ledger back from Kafka.

    Example: tidemill rebuild --check
    """
    found = settings()
    if check + from_topics + adopt > 1 or ((from_topics or adopt) and (online or tenant)):
        raise CliError("wrong_usage", "--check, --from-topics and --adopt exclude each other; the last two are about the whole ledger", USAGE)
    if from_topics or adopt:
        refill(found, adopt=adopt, yes=yes or as_json, as_json=as_json)
    if check:
        if online:
            raise CliError("wrong_usage", "--check writes nothing, so --online says nothing with it", USAGE)
        checked = run(_check(found, tenant))
        document = asdict(checked) | {"equal": checked.equal}
        out.show(document, as_json, lambda: _show_checked(checked))
        raise typer.Exit(0 if checked.equal else FAILED)
    rebuilt = run(_rebuild(found, tenant, online))
    out.show(rebuilt, as_json, lambda: _show_rebuilt(rebuilt))
    raise typer.Exit(0 if all(each.done for each in rebuilt) else FAILED)


def verify(as_json: Json = False) -> None:
    """Compare Faust table, ledger rows and journal of every tenant.

    Example: tidemill verify
    """
    verified = run(_verify(settings()))
    out.show(asdict(verified) | {"equal": verified.equal}, as_json, lambda: _show_verified(verified))
    raise typer.Exit(0 if verified.equal else FAILED)


def prove(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="A run id, or its beginning if that is unique.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run.")] = False,
    as_json: Json = False,
) -> None:
    """Show for each effect of a run that journal, topics and neighbours tell the same.

    Example: tidemill prove 7f3a
    """
    if (run_id is None) is not every:
        raise CliError("wrong_usage", "name one run, or say --all", USAGE)
    if run_id is not None:
        proof = run(_prove(settings(), run_id))
        out.show(_document(proof), as_json, lambda: _show_proof(proof))
        raise typer.Exit(FAILED if proof.mismatches else 0)
    totals, wrong = run(_prove_all(settings()))
    out.show(totals | {"mismatching": [_document(proof) for proof in wrong]}, as_json, lambda: _show_proofs(totals, wrong))
    raise typer.Exit(FAILED if wrong else 0)


async def _check(settings: "Settings", tenant: str | None) -> "Checked":
    from streams.proof.check import check

    async with open_ledger(settings) as raw:
        return await check(raw, await _known(raw, tenant))


async def _rebuild(settings: "Settings", tenant: str | None, online: bool) -> "list[Rebuilt]":
    from streams.proof.rebuild import ALIVE, rebuild

    async with open_ledger(settings) as raw:
        alive = await raw.fetchval(ALIVE)
        if alive and not online:
            raise CliError(
                "workers_alive", f"{alive} workers are alive; stop them, or say --online: what they have in hand is then refused and done again"
            )
        return [each async for each in rebuild(raw, await _known(raw, tenant))]


async def _verify(settings: "Settings") -> "Verified":
    from streams.proof.verify import ViewAway, open_view, verify

    async with open_ledger(settings) as snapshot, open_ledger(settings) as now, open_view(settings) as view:
        try:
            return await verify(snapshot, now, view)
        except ViewAway as away:
            raise CliError("view_away", str(away), NOT_THERE) from None


async def _prove(settings: "Settings", text: str) -> "Proof":
    from streams.cli.frame import reading

    async with reading(settings) as reader:
        run_id = await reader.find_run(text)
    async with _prover(settings) as prover:
        return await prover.run(run_id)  # type: ignore[no-any-return]  # loaded late, so that other verbs start fast


async def _prove_all(settings: "Settings") -> "tuple[dict[str, int], list[Proof]]":
    totals, wrong = dict.fromkeys(("runs", "effects", "open", "expired", "holes", "mismatches"), 0), []
    async with _prover(settings) as prover:
        async for proof in prover.every():
            totals["runs"] += proof.state != "unknown"
            totals["effects"] += len(proof.lines)
            totals["open"] += sum(line.verdict == "open" for line in proof.lines)
            totals["expired"] += sum(line.verdict == "expired" for line in proof.lines)
            totals["holes"] += sum(line.verdict == "hole" for line in proof.lines)
            totals["mismatches"] += proof.mismatches
            if proof.mismatches:
                wrong.append(proof)
    return totals, wrong


@asynccontextmanager
async def _prover(settings: "Settings") -> AsyncIterator[Any]:
    from aiokafka.errors import KafkaError

    from streams.proof.neighbours import NeighbourAway, open_neighbours
    from streams.proof.prove import Prover

    async with (
        open_ledger(settings) as snapshot,
        open_ledger(settings) as now,
        open_neighbours(settings) as neighbours,
        snapshot.transaction(isolation="repeatable_read", readonly=True),
    ):
        try:
            yield Prover(snapshot, now, neighbours, settings)
        except NeighbourAway as away:
            raise CliError("neighbour_away", str(away), NOT_THERE) from None
        except KafkaError as error:
            sentence = f"Kafka at {settings.kafka.bootstrap} cannot be read ({type(error).__name__}: {error}); is `tidemill up` running?"
            raise CliError("kafka_away", sentence, NOT_THERE) from None


async def _known(raw: "asyncpg.Connection[Any]", tenant: str | None) -> str | None:
    if tenant is not None and not await raw.fetchval("select 1 from tenant_heads where tenant_id = $1", tenant):
        raise CliError("unknown_tenant", f"there is no tenant {out.harmless(tenant[:80])}; `tidemill tenants list` lists what there is")
    return tenant


def _show_checked(checked: "Checked") -> None:
    if checked.equal:
        what = f"{checked.tenants} tenants, {checked.runs} runs, {checked.entries} journal entries"
        out.line(f"equal: {what}; state hash {checked.rows_hash[:16]}")
        return
    _show_differences(checked.differences, checked.differing)
    out.line(f"journal {checked.journal_hash[:16]}, rows {checked.rows_hash[:16]}; `tidemill rebuild` writes the rows anew from the journal")


def _show_rebuilt(rebuilt: "list[Rebuilt]") -> None:
    for each in rebuilt:
        if not each.done:
            why = each.differences[0].sentence if each.differences else "nothing"
            out.line(f"left     {each.tenant_id}: its journal is not whole ({why}); restore the ledger from a backup")
        elif each.differences:
            out.line(f"repaired {each.tenant_id}: {len(each.differences)} differences, hash {each.before[:16]} -> {each.after[:16]}")
    done = [each for each in rebuilt if each.done]
    runs, steps, reopened = (sum(getattr(each, name) for each in done) for name in ("runs", "steps", "reopened"))
    out.line(f"rebuilt {len(done)} of {len(rebuilt)} tenants: {runs} runs, {steps} steps, {reopened} of them open and due now")


def _show_verified(verified: "Verified") -> None:
    lag = f", {verified.lagging} of them lagged and caught up" if verified.lagging else ""
    if verified.equal:
        out.line(f"equal: {verified.tenants} tenants, {verified.pipelines} table entries{lag}")
    else:
        _show_differences(verified.differences, len(verified.differences))


def _show_differences(found: "list[Difference]", count: int) -> None:
    out.table(("tenant", "code", "what", "why"), ((each.tenant_id, each.code, each.about, each.sentence) for each in found[:SHOWN]))
    if count > SHOWN:
        out.line(f"and {count - SHOWN} more; --json shows them")


def _document(proof: "Proof") -> dict[str, Any]:
    return asdict(proof) | {"mismatches": proof.mismatches}


def _show_proof(proof: "Proof") -> None:
    rows = ((line.verdict, line.effect, line.key, line.journal, line.ledger, line.there, line.sentence) for line in proof.lines)
    out.table(("verdict", "effect", "id or key", "journal", "kept answers", "there", ""), rows)
    flight = "" if proof.over else " (in flight: what is not over is not judged)"
    said = f"{proof.mismatches} mismatches" if proof.mismatches else "journal, topics and neighbours agree"
    out.line(f"run {proof.run_id} of {proof.tenant_id} is {proof.state}{flight}: {len(proof.lines)} effects, {said}")


def _show_proofs(totals: dict[str, int], wrong: "list[Proof]") -> None:
    for proof in wrong[:SHOWN]:
        out.line(f"run {proof.run_id} of {proof.tenant_id} ({proof.state}):")
        for line in proof.lines:
            if line.mismatch:
                out.line(f"  {line.verdict}: {line.effect} {line.key}: {line.sentence}")
    out.line(", ".join(f"{count} {name}" for name, count in totals.items()))
