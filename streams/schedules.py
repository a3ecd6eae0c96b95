"""The schedules' door: what API, CLI and page may do with them. Each change is one transaction with its row in the history, and live at once."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from schemas.tenant import TenantId
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.requests import refused, unknown_fields
from streams.schedule import BadSchedule, Rule, next_due
from streams.timers import make_slots, rule_of

NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
_FIND = "select * from schedules where name = $1 for update"
_RULE = ("cron", "zone", "starts_at", "ends_at")
_COLUMNS = ("pipeline", "tenant_id", "cron", "zone", "jitter", "missed", "catch_up", "overlap", "starts_at", "ends_at", "request")
Span = Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(days=366))]


class Changes(BaseModel):
    """What may be said of a schedule; what is not said stays as it is. Durations: seconds, or ISO 8601 such as PT30M."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str | None = None
    tenant_id: TenantId | None = None
    """For this tenant alone, in place of the schedules for everybody; null: for every tenant without one of its own."""
    cron: Annotated[str, Field(max_length=200)] | None = None
    zone: Annotated[str, Field(max_length=100)] | None = None
    jitter: Span | None = None
    missed: Literal["skip", "latest", "all"] | None = None
    catch_up: Span | None = None
    overlap: Literal["merge", "skip", "queue"] | None = None
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    request: dict[str, Any] | None = None
    """What its requests say beside tenant and slot, e.g. {"model_config": {"epochs": 20}}."""


async def set_schedule(ledger: Ledger, pipelines: Pipelines, name: str, changes: Changes, *, by: str) -> Answer:
    """Make a schedule (paused), or change one from now on. `result`: created, changed, or there (it says so already)."""
    said = {field: getattr(changes, field) for field in changes.model_fields_set}
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        row = await raw.fetchrow(_FIND, name)
        if wrong := await _wrong(raw, pipelines, name, row, said):
            return wrong
        if row is None:
            return await _create(raw, name, said, by, now)
        said = {field: value for field, value in said.items() if value != row[field]}
        if not said:
            return _answer("there", row)
        return await _change(raw, row, said, by, now)


async def _create(raw: "asyncpg.Connection[Any]", name: str, said: dict[str, Any], by: str, now: datetime) -> Answer:
    given = {"name": name} | {field: value for field, value in said.items() if value is not None}
    marks = ", ".join(f"${n}" for n in range(1, len(given) + 1))
    row = await raw.fetchrow(f"insert into schedules ({', '.join(given)}) values ({marks}) returning *", *given.values())
    assert row is not None
    await raw.execute("select note_schedule($1, 'created', $2, $3)", row["schedule_id"], by, now)
    return _answer("created", row)


async def _change(raw: "asyncpg.Connection[Any]", row: Any, said: dict[str, Any], by: str, now: datetime) -> Answer:
    if not row["paused"] and row["next_due"] is not None and row["next_due"] <= now:
        await make_slots(raw, row, now)  # what was due before the change is due by the rule of then
    sets = ", ".join(f"{field} = ${n}" for n, field in enumerate(said, start=2))
    row = await raw.fetchrow(f"update schedules set {sets} where schedule_id = $1 returning *", row["schedule_id"], *said.values())
    assert row is not None
    if not said.keys().isdisjoint(_RULE) and (row["next_due"] is not None or not row["paused"]):  # without a next time and not paused: it was over
        # of a paused schedule: the first time by the new rule since the pause, as the resume will ask for what was missed
        since = now if not row["paused"] else min(now, row["next_due"] - timedelta(seconds=1))
        row = await _due(raw, row["schedule_id"], next_due(rule_of(row), since))
    await raw.execute("select note_schedule($1, 'changed', $2, $3)", row["schedule_id"], by, now)
    return _answer("changed", row, revision=row["revision"] + 1)


async def pause_schedule(ledger: Ledger, name: str, *, by: str) -> Answer:
    """Let it fire no more until it is resumed; slots it has made already still fire. `result`: paused, or there."""
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        row = await raw.fetchrow(_FIND, name)
        if row is None:
            return refused("unknown_schedule", schedule=name)
        if row["paused"]:
            return _answer("there", row)
        if row["next_due"] is not None and row["next_due"] <= now:
            await make_slots(raw, row, now)
        row = await raw.fetchrow("update schedules set paused = true where schedule_id = $1 returning *", row["schedule_id"])
        assert row is not None
        await raw.execute("select note_schedule($1, 'paused', $2, $3)", row["schedule_id"], by, now)
    return _answer("paused", row, revision=row["revision"] + 1)


async def resume_schedule(ledger: Ledger, name: str, *, by: str) -> Answer:
    """Let it fire: what it missed while it was paused by its policy at once, then its next times. `result`: resumed, or there.

    One that never ran has missed nothing: it begins with its next due time.
    """
    now = ledger.clock.now()
    async with ledger.calls.transaction() as raw:
        row = await raw.fetchrow(_FIND, name)
        if row is None:
            return refused("unknown_schedule", schedule=name)
        if not row["paused"]:
            return _answer("there", row)
        try:
            due = row["next_due"] or next_due(rule_of(row), now)
        except BadSchedule as error:
            return refused("bad_schedule", fields={error.field: str(error)})
        await raw.execute("update schedules set paused = false where schedule_id = $1", row["schedule_id"])
        row = await _due(raw, row["schedule_id"], due)
        await raw.execute("select note_schedule($1, 'resumed', $2, $3)", row["schedule_id"], by, now)
    return _answer("resumed", row, revision=row["revision"] + 1)


async def delete_schedule(ledger: Ledger, name: str, *, by: str) -> Answer:
    """End a schedule; its history stays. `result`: deleted."""
    async with ledger.calls.transaction() as raw:
        row = await raw.fetchrow(_FIND, name)
        if row is None:
            return refused("unknown_schedule", schedule=name)
        await raw.execute("select drop_schedule($1, $2, $3)", row["schedule_id"], by, ledger.clock.now())
    return {"result": "deleted", "name": name}


async def _due(raw: "asyncpg.Connection[Any]", schedule_id: UUID, due: datetime | None) -> Any:
    return await raw.fetchrow("update schedules set next_due = $2 where schedule_id = $1 returning *", schedule_id, due)


async def _wrong(raw: "asyncpg.Connection[Any]", pipelines: Pipelines, name: str, row: Any, said: dict[str, Any]) -> Answer | None:
    """Why the schedule cannot be so, or None."""
    if not NAME.fullmatch(name):
        return refused("bad_field", fields={"name": "2 to 63 of a-z, 0-9 and '-', beginning with a letter or digit"})
    if row is not None and any(said.get(field, row[field]) != row[field] for field in ("pipeline", "tenant_id")):
        return refused("schedule_bound", schedule=name)
    wanted = {**(row or {}), **said}
    if missing := [field for field in ("pipeline", "cron") if not wanted.get(field)]:
        return refused("schedule_incomplete", fields=dict.fromkeys(missing, "is missing"))
    pipeline = pipelines.by_name.get(wanted["pipeline"])
    if pipeline is None:
        return refused("unknown_pipeline", pipeline=wanted["pipeline"], pipelines=", ".join(pipelines.by_name))
    tenant = wanted.get("tenant_id")
    if tenant and not await raw.fetchval("select 1 from tenants where tenant_id = $1 and status <> 'deleted'", tenant):
        return refused("unknown_tenant", tenant=tenant)
    if nulls := [field for field in said if said[field] is None and field not in ("tenant_id", "starts_at", "ends_at")]:
        return refused("bad_field", fields=dict.fromkeys(nulls, "may not be null"))
    if unknown := unknown_fields(pipeline.entry, said.get("request") or {}):
        return refused("bad_field", fields={f"request.{name}": f"{pipeline.entry.topic} has no such field" for name in unknown})
    try:
        Rule(wanted["cron"], wanted.get("zone") or "UTC", starts_at=wanted.get("starts_at"), ends_at=wanted.get("ends_at")).check()
        pipeline.entry.model_validate((wanted.get("request") or {}) | {"tenant_id": tenant or "any-tenant"})
    except BadSchedule as error:
        return refused("bad_schedule", fields={error.field: str(error)})
    except ValidationError as error:
        parts = error.errors(include_url=False, include_context=False, include_input=False)
        return refused("bad_field", fields={".".join(map(str, ("request", *part["loc"]))): part["msg"] for part in parts})
    return None


def _answer(result: str, row: Any, **facts: Any) -> Answer:
    due = row["next_due"].astimezone(UTC).isoformat() if row["next_due"] else None
    return {"result": result, "name": row["name"], "revision": row["revision"], "paused": row["paused"], "next_due": due} | facts
