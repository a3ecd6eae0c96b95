"""Requests for many tenants at once: recorded as one expansion, which turns into one request a tenant; never a silent default tenant."""

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import structlog

from schemas.cloudevents import body_hash
from schemas.event import Event
from schemas.tenant import ALL_TENANTS
from streams import names
from streams.expand import ANYBODY, IDLE, cause_of, expand, gate
from streams.items import expansion_item
from streams.ledger.groupcommit import ItemRefused
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.requests import SOURCE, refused, request_of, wake
from streams.stage import Pipeline

log = structlog.get_logger(__name__)

Chosen = dict[str, Any]
"""Which tenants: `owner`, `status`, `labels` {name: value}; nothing: every active one."""
MOST = 1_000_000
_ROW = "select * from expansions where event_key = $1"
_ASKED = "select tenant_id, run_id, fate from inbox where event_key = any($1) and run_id is not null order by tenant_id"


def chosen_by(where: Iterable[str]) -> Answer:
    """The choice that `name=value` words make, or a refusal."""
    chosen: Chosen = {}
    for word in where:
        name, equals, value = word.partition("=")
        if not name or not equals:
            return refused("bad_where", fields={word[:80]: "is not NAME=VALUE"})
        if name == "status" and value not in ("active", "suspended"):
            return refused("bad_where", fields={"status": "is active or suspended"})
        if name in ("owner", "status"):
            chosen[name] = value
        else:
            chosen.setdefault("labels", {})[name] = value
    return chosen


async def meant(ledger: Ledger, chosen: Chosen) -> list[str]:
    """The tenants that a choice means now."""
    return [row[0] for row in await ledger.calls.fetch("select chosen_tenants($1, '', $2)", chosen, MOST)]


async def dry_run(
    ledger: Ledger, pipelines: Pipelines, *, pipeline: str, chosen: Chosen, config: dict[str, Any] | None, reason: str | None
) -> Answer:
    """Whom a request for many would mean: `result` dry_run with the `tenants`; refused where the request itself would be."""
    wanted = _wanted(pipelines, pipeline, _said(config, reason))
    return {"result": "dry_run", "tenants": await meant(ledger, chosen)} if isinstance(wanted, tuple) else wanted


async def request_all(
    ledger: Ledger,
    pipelines: Pipelines,
    *,
    pipeline: str = "training",
    chosen: Chosen | None = None,
    request_key: str | None = None,
    config: dict[str, Any] | None = None,
    reason: str | None = None,
    source: str = "cli",
) -> Answer:
    """Ask for a run of each tenant meant. `result`: expanding, or seen (this key asked before); `expansion` names it."""
    data = _said(config, reason)
    found = _wanted(pipelines, pipeline, data)
    if not isinstance(found, tuple):
        return found
    wanted, event = found
    event_id = names.request_event(ALL_TENANTS, request_key) if request_key else uuid4()
    item = expansion_item(wanted, event, event_id, SOURCE, body_hash(data | {"pipeline": pipeline, "chosen": chosen or {}}))
    item |= {"data": data, "chosen": chosen or {}, "publish": True}
    try:
        answer = await ledger.receive(item)
    except ItemRefused as refusal:
        return refused("unstorable", sqlstate=refusal.code)
    if answer["result"] == "refused":
        return refused("all_reused" if answer["code"] == "key_reused" else answer["code"], key=request_key)
    log.info("runs requested for many tenants", pipeline=pipeline, result=answer["result"], source=source)
    await wake(ledger)
    return {"result": answer["result"], "expansion": str(item["event_key"])}


def _said(config: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {name: value for name, value in {"model_config": config, "reason": reason}.items() if value is not None}


def _wanted(pipelines: Pipelines, pipeline: str, data: dict[str, Any]) -> tuple[Pipeline, Event] | Answer:
    """The pipeline with the request as an event, or the refusal."""
    wanted = pipelines.by_name.get(pipeline)
    if wanted is None:
        return refused("unknown_pipeline", pipeline=pipeline, pipelines=", ".join(pipelines.by_name))
    event = request_of(wanted, data | {"tenant_id": ANYBODY})
    return (wanted, event) if isinstance(event, Event) else event


async def carry_on(ledger: Ledger, pipelines: Pipelines, key: str) -> None:
    """Expand it here, beside the workers, until it is done; while nothing may be asked for, wait as they do."""
    door = gate(pipelines)
    while (row := await _row(ledger, key)) is not None and row["done_at"] is None:
        if await door.shut(ledger.calls.fetch):
            await asyncio.sleep(IDLE)
            continue
        await expand(pipelines, ledger, row, publishes=False)
    await wake(ledger)


async def progress(ledger: Ledger, key: str) -> Answer | None:
    """How far an expansion is."""
    row = await _row(ledger, key)
    return {name: row[name] for name in ("event_key", "pipeline", "chosen", "tenants", "at", "done_at")} if row else None


async def asked(ledger: Ledger, key: str) -> list[Answer]:
    """The runs that an expansion asked for, so far as it has come."""
    row = await _row(ledger, key)
    if row is None:
        return []
    tenants = await meant(ledger, row["chosen"])
    keys = [names.inbox_key(tenant, row["source"], cause_of(row["event_id"], tenant)) for tenant in tenants]
    found = await ledger.calls.fetch(_ASKED, keys)
    return [{"tenant_id": each["tenant_id"], "run_id": str(each["run_id"]), "result": each["fate"]} for each in found]


async def _row(ledger: Ledger, key: str) -> Any:
    rows = await ledger.calls.fetch(_ROW, UUID(key))
    return rows[0] if rows else None
