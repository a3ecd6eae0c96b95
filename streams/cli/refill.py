"""`tidemill rebuild --from-topics` and `--adopt`: asks, has the ledger refilled, and says what is back and what is not."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Never

import typer

from streams.cli import out
from streams.cli.frame import run
from streams.cli.long import open_ledger
from streams.cli.refusal import FAILED, NOT_THERE, CliError

if TYPE_CHECKING:
    from streams.refill.refill import Refilled
    from streams.settings import Settings

SHOWN = 50
"""Tenants that people are shown; --json has all."""
_AT_WORK = "select 1 from steps s join workers w on w.worker_id = s.worker where w.lease_until > clock_timestamp() limit 1"
LOST = "tenants' settings, schedules, slots, quality verdicts and allowances, incidents, dead letters' ends, kept answers"


def refill(settings: "Settings", *, adopt: bool, yes: bool, as_json: bool) -> Never:
    """Refill and end the command."""
    if not yes:
        what = "Everything Kafka knows beyond the ledger is added to it" if adopt else "The empty ledger is filled with what Kafka knows"
        typer.confirm(f"{what}; workers must be stopped or reconciling. Go on?", abort=True)
    refilled = run(_refill(settings, adopt))
    out.show(asdict(refilled) | {"done": refilled.done, "never_on_topics": LOST}, as_json, lambda: _show(refilled))
    raise typer.Exit(0 if refilled.done else FAILED)


async def _refill(settings: "Settings", adopt: bool) -> "Refilled":
    from aiokafka.errors import KafkaError

    from streams.kafka import TopicsWrong
    from streams.pipelines import Pipelines
    from streams.refill.refill import Refill

    async with open_ledger(settings) as raw:
        journal = await raw.fetchval("select 1 from journal limit 1")
        if journal and not adopt:
            raise CliError("ledger_not_empty", "the ledger has a journal, so it was not lost; --adopt adds what Kafka knows beyond it")
        if await raw.fetchval(_AT_WORK):
            raise CliError("workers_alive", "workers are at work; stop them: only one that is reconciling may stay")
        try:
            return await Refill(raw, Pipelines.load(settings)).run()
        except TopicsWrong as wrong:
            raise CliError("topics_wrong", str(wrong), NOT_THERE) from None
        except KafkaError as error:
            sentence = f"Kafka at {settings.kafka.bootstrap} cannot be read ({type(error).__name__}: {error}); run it again, nothing is half done"
            raise CliError("kafka_away", sentence, NOT_THERE) from None


def _show(refilled: "Refilled") -> None:
    notable = [each for each in refilled.tenants if each.missing or each.set_aside or not each.done]
    for each in notable[:SHOWN]:
        if not each.done:
            out.line(f"left     {each.tenant_id}: {each.why}")
            continue
        missing = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in each.missing) or "none"
        aside = f"; set aside, because they follow from nothing: {', '.join(map(str, each.set_aside))}" if each.set_aside else ""
        out.line(f"refilled {each.tenant_id}: missing entries {missing}{aside}")
    if len(notable) > SHOWN:
        out.line(f"and {len(notable) - SHOWN} more with holes; --json shows them")
    for topic, since in refilled.topics.items():
        out.line(f"{topic} goes back to {since:%Y-%m-%d %H:%M:%S}" if since else f"{topic} is empty")
    done = [each for each in refilled.tenants if each.done]
    entries, steps = (sum(getattr(each, name) for each in done) for name in ("entries", "open_steps"))
    out.line(f"refilled {len(done)} of {len(refilled.tenants)} tenants: {entries} journal entries, {steps} steps open and due now")
    out.line(f"{refilled.accepted} requests accepted anew, {refilled.read_again} foreign events will be read again by a worker")
    out.line(f"On no topic, and lost unless a backup has it: {LOST}.")
