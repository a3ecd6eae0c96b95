"""The one door for what people and programs ask: API, CLI and timers come through here into the ledger, as events do through the inbox.

Nothing here publishes: what an answer puts into the outbox goes to Kafka with a worker's next sweep.
"""

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import structlog
from pydantic import ValidationError

from schemas.cloudevents import body_hash
from schemas.event import Event
from schemas.json_strict import Flaw, parse
from schemas.tenant import is_tenant_id
from streams import names
from streams.items import request_item
from streams.ledger.connection import is_outage
from streams.ledger.groupcommit import ItemRefused
from streams.ledger.ledger import Answer, Ledger
from streams.membership import WAKE_CHANNEL
from streams.pipelines import Pipelines
from streams.stage import Pipeline

log = structlog.get_logger(__name__)

SOURCE = "request"
"""Of every request through this door: one key asks for one run, whether it comes by API or CLI."""
_STAGE_TO_REPEAT = "select stage from steps where run_id = $1 and state in ('failed', 'cancelled', 'skipped') order by finished_at desc limit 1"
_RUN = "select pipeline, stage, version from runs where run_id = $1"


async def request_run(
    ledger: Ledger,
    pipelines: Pipelines,
    *,
    tenant_id: str,
    pipeline: str = "training",
    request_key: str | None = None,
    config: dict[str, Any] | None = None,
    reason: str | None = None,
    source: str = "cli",
    dry_run: bool = False,
) -> Answer:
    """Ask for a run. `result`: run, pending or merged (it waits for the active run), seen (this key asked before), or refused.

    A refusal has `code`, `sentence` and, when fields are wrong, `fields` {name: what is wrong with it}. `dry_run`: the same answer, and nothing done.
    """
    wanted = pipelines.by_name.get(pipeline)
    if wanted is None:
        return refused("unknown_pipeline", pipeline=pipeline, pipelines=", ".join(pipelines.by_name))
    if not is_tenant_id(tenant_id):
        return refused("bad_tenant")
    data = {"tenant_id": tenant_id, "request_key": request_key, "model_config": config, "reason": reason}
    data = {name: value for name, value in data.items() if value is not None}
    event = request_of(wanted, data)
    if not isinstance(event, Event):
        return event
    event_id = names.request_event(tenant_id, request_key) if request_key else uuid4()
    item = request_item(pipelines, wanted, event, event_id, SOURCE, body_of(wanted, event.dump()))
    item |= {"publish": True, "abandoned": True, "create": pipelines.settings.runtime.unknown_tenants == "create"}
    try:
        answer = await (ledger.would_receive(item) if dry_run else ledger.receive(item))
    except ItemRefused as refusal:
        return refused("unstorable", sqlstate=refusal.code)
    if answer["result"] == "refused":
        return refused(answer["code"], tenant=tenant_id, key=request_key, run=answer.get("run_id"))
    if dry_run:
        return {"result": answer["result"], "run_id": answer["run_id"]}
    log.info("run requested", tenant=tenant_id, run=answer["run_id"], result=answer["result"], source=source)
    return await _woken(ledger, answer | {"event_id": str(event_id)})


def body_of(pipeline: Pipeline, data: dict[str, Any]) -> bytes:
    """What tells two requests under one key apart. Taken from the event as it is published, from which a refill can take it again."""
    return body_hash(data | {"pipeline": pipeline.name})


async def cancel_run(ledger: Ledger, pipelines: Pipelines, run_id: UUID, *, by: str) -> Answer:
    """Ask a run to end. `result`: cancelled, cancelling (the step in flight has the last word), or refused."""
    rows = await ledger.calls.fetch(_RUN, run_id)
    if not rows:
        return refused("unknown_run", run=run_id)
    pipeline = pipelines.by_name.get(rows[0]["pipeline"])
    if pipeline is None:
        return refused("unknown_pipeline", pipeline=rows[0]["pipeline"], pipelines=", ".join(pipelines.by_name))
    # the version tells the end of a reopened run from the one before
    finish = names.finish_event(run_id, "cancel", rows[0]["version"])
    answer = await ledger.cancel(run_id, finish_id=finish, first=pipelines.first(pipeline), unsettled=pipelines.unsettled(pipeline), by=by)
    if answer["result"] == "refused":
        return refused(answer["code"], run=run_id, state=answer.get("state"))
    return await _woken(ledger, answer | {"run_id": str(run_id)})


async def retry_run(ledger: Ledger, pipelines: Pipelines, run_id: UUID, *, stage: str | None = None, by: str) -> Answer:
    """Open a finished run again, from `stage` or from the one that failed. `result`: reopened (with `stage` and `round`), or refused."""
    rows = await ledger.calls.fetch(_RUN, run_id)
    if not rows:
        return refused("unknown_run", run=run_id)
    pipeline = pipelines.by_name.get(rows[0]["pipeline"])
    if pipeline is None:
        return refused("unknown_pipeline", pipeline=rows[0]["pipeline"], pipelines=", ".join(pipelines.by_name))
    stages = [each.name for each in pipeline.stages]
    begin = stage or await ledger.calls.value(_STAGE_TO_REPEAT, run_id) or rows[0]["stage"] or stages[0]
    if begin not in pipeline.by_name:
        return refused("unknown_stage", stage=begin, stages=", ".join(stages))
    answer = await ledger.reopen(run_id, stage=begin, stages=stages, limit=pipelines.limit_of(pipeline.by_name[begin]), by=by)
    if answer["result"] == "refused":
        facts = {"state": answer.get("state"), "active": answer.get("active_run"), "tenant": answer.get("tenant"), "newer": answer.get("newer")}
        return refused(answer["code"], run=run_id, stage=begin, first=stages[0], **facts)
    return await _woken(ledger, answer | {"run_id": str(run_id)})


async def wake(ledger: Ledger) -> None:
    """Let every worker look for work now; in an outage they find it a little later by themselves."""
    try:
        await ledger.calls.fetch(f"select pg_notify('{WAKE_CHANNEL}', '')")
    except Exception as error:
        if not is_outage(error):
            raise


async def _woken(ledger: Ledger, answer: Answer) -> Answer:
    await wake(ledger)
    return {name: value for name, value in answer.items() if name not in ("outbox", "step")}


def request_of(pipeline: Pipeline, data: dict[str, Any]) -> Event | Answer:
    """The request of a pipeline's run; a config is refused by a pipeline that has none, instead of being passed over."""
    if data.get("model_config") and unknown_fields(pipeline.entry, ["model_config"]):
        return refused("bad_field", fields={"config": f"the pipeline {pipeline.name} takes none"})
    return event_of(pipeline.entry, data)


def unknown_fields(kind: type[Event], said: Iterable[str]) -> list[str]:
    """What an event of this kind would pass over: from Kafka it may be a newer schema's, from a person it is a slip."""
    known = {name for field, info in kind.model_fields.items() for name in (field, info.alias)}
    return sorted(name for name in said if name not in known)


def event_of(kind: type[Event], data: dict[str, Any]) -> Event | Answer:
    """The request as an event, held to the same rules as one from Kafka; else the refusal."""
    try:
        parse(json.dumps(data, allow_nan=False).encode(), duplicates=False)
        return kind.model_validate(data)
    except Flaw as flaw:
        return refused(flaw.code, sentence=flaw.sentence)
    except ValidationError as error:
        parts = error.errors(include_url=False, include_context=False, include_input=False)
        # of a value that cannot be parsed the rest of the message may be a quote
        fields = {".".join(map(str, part["loc"])): part["msg"].partition(", unable")[0] for part in parts}
        return refused("bad_field", fields=fields)
    except (TypeError, ValueError, RecursionError):
        return refused("bad_json")


def refused(code: str, *, sentence: str | None = None, fields: dict[str, str] | None = None, **facts: Any) -> Answer:
    """A refusal as API and CLI show it: why, and what to do."""
    if sentence is None:
        said = "; ".join(f"{name}: {why}" for name, why in (fields or {}).items())
        sentence = SENTENCES.get(code, "the ledger refused it").format_map(facts | {"fields": said})
    answer: Answer = {"result": "refused", "code": code, "sentence": sentence}
    return answer | ({"fields": fields} if fields else {}) | {name: str(value) for name, value in facts.items() if value is not None}


SENTENCES = {
    "bad_tenant": "a tenant id is 2 to 63 of a-z, 0-9 and '-', and starts with a letter or digit",
    "bad_field": "{fields}; correct the request",
    "bad_json": "the request holds what JSON does not know, such as NaN; leave it out",
    "unstorable": "PostgreSQL refused its content (SQLSTATE {sqlstate}); leave out what cannot be stored",
    "unknown_pipeline": "there is no pipeline {pipeline}; there are: {pipelines}",
    "unknown_tenant": "there is no tenant {tenant}; add it with `tidemill tenants add {tenant}`",
    "tenant_suspended": "tenant {tenant} is suspended; `tidemill tenants resume {tenant}` lets it train again",
    "tenant_deleted": "tenant {tenant} was deleted",
    "reconciling": "the ledger was lost or set back; nothing is accepted until `tidemill rebuild --from-topics`, or --adopt after a restore",
    "key_reused": "the key {key} asked for run {run} before, with another body; take another key for another request",
    "unknown_run": "there is no run {run}; `tidemill runs` lists what there is",
    "unknown_stage": "the pipeline has no stage {stage}; its stages are: {stages}",
    "run_over": "run {run} is over ({state}); there is nothing to cancel",
    "run_not_over": "run {run} is {state}; cancel it first, or wait for its end",
    "run_superseded": "run {run} was superseded by a newer model and stays over; trigger a new run",
    "run_outdated": "run {newer} of the same tenant was asked for later and succeeded: from {stage} on, this one would bring back what is older; "
    "`tidemill retry {run} --from {first}` begins it anew",
    "tenant_busy": "run {active} of the same tenant is active; retry when it is over, or cancel it",
    "stage_not_reached": "run {run} never got as far as {stage}; retry from an earlier stage, or trigger a new run",
    "bad_schedule": "{fields}",
    "unknown_schedule": "there is no schedule {schedule}; `tidemill schedules list` lists what there is",
    "schedule_incomplete": "a new schedule needs a pipeline and a cron expression: {fields}",
    "schedule_bound": "schedule {schedule} is bound to its pipeline and tenant; delete it and make another",
    "unknown_backfill": "there is no backfill {backfill}; `tidemill backfill list` lists what there is",
    "backfill_over": "backfill {backfill} is {state}; start it again with the same days and it makes up for what is still missing",
    "backfill_too_large": "that are {slots} slots, one backfill takes {most}; choose fewer days or tenants",
    "no_tenant": "name a tenant, or say plainly that every active one is meant",
    "bad_where": "{fields}; tenants are chosen by owner=WHO, status=active, or LABEL=VALUE",
    "all_reused": "the key {key} asked for all tenants before, with another body; take another key for another request",
    "warehouse_unreadable": "the warehouse's table tenants cannot be read ({why}); is TIDEMILL_WAREHOUSE__DSN right?",
    "nothing_named": "name a pipeline, a tenant, or both",
    "letter_settled": "dead letter {letter} is not open any more ({state}); `tidemill dead list --state all` shows it",
    "letter_cut": "of dead letter {letter} only the first MiB of {size} bytes was kept; publish the event again, smaller, and drop the letter",
    "not_ours": "{topic} is written by Tidemill alone; drop the dead letter and find its publisher",
    "unwanted": "no pipeline of this installation takes events of {topic}; drop the dead letter",
}
