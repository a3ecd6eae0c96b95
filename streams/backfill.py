"""The door for backfills: past due times of a schedule, made up for in a batch that can be paused and cancelled; asking twice is asking once."""

import json
from datetime import date, datetime, time, timedelta
from itertools import islice, takewhile
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from schemas.context import NAMESPACE
from streams.ledger.ledger import Answer, Ledger
from streams.requests import refused, wake
from streams.schedule import Rule
from streams.timers import rule_of

MOST = 100_000
"""Slots of one backfill."""
_SCHEDULE = "select * from schedules where name = $1 for share"
_MAKE = """
insert into backfills as b
    (backfill_id, schedule_id, schedule, pipeline, first_day, last_day, chosen, at_once, state, changed_by, made_at, changed_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, 'running', $9, $10, $10)
on conflict (backfill_id) do update set at_once = excluded.at_once, state = case when b.state = 'paused' then 'paused' else 'running' end
returning b.*, xmax = 0 as made
"""
_PLAN = "select * from plan_backfill((select b from backfills b where b.backfill_id = $1), $2, $3)"


async def start_backfill(
    ledger: Ledger, name: str, *, first: date, last: date, chosen: dict[str, Any], at_once: int, by: str, dry_run: bool = False
) -> Answer:
    """Plan every due time of these days, both included, that never fired. `result`: started, there (nothing is left to plan), planned (dry run)."""
    now = ledger.clock.now()
    if first > last:
        return refused("bad_field", fields={"last_day": "is before the first day"})
    async with ledger.calls.transaction() as raw:
        row = await raw.fetchrow(_SCHEDULE, name)
        if row is None:
            return refused("unknown_schedule", schedule=name)
        if row["tenant_id"] is not None:
            chosen = {"tenant": row["tenant_id"]}
        dues = due_times(rule_of(row), first, last, now)
        if len(dues) > MOST:
            return refused("backfill_too_large", slots=f"more than {MOST}", most=MOST)
        key = uuid5(NAMESPACE, f"backfill\n{row['schedule_id']}\n{first}\n{last}\n{json.dumps(chosen, sort_keys=True)}")
        transaction = raw.transaction()
        await transaction.start()
        made = await raw.fetchrow(_MAKE, key, row["schedule_id"], name, row["pipeline"], first, last, chosen, at_once, by, now)
        assert made is not None
        plan = await raw.fetchrow(_PLAN, key, dues, dry_run)
        assert plan is not None
        answer = {"backfill": str(key), "schedule": name, "due_times": len(dues), "planned": plan["planned"], "fired_before": plan["before"]}
        if dry_run or plan["planned"] > MOST:
            await transaction.rollback()
            if not dry_run:
                return refused("backfill_too_large", slots=plan["planned"], most=MOST)
            return {"result": "planned"} | answer
        await transaction.commit()
    await wake(ledger)
    return {"result": "started" if made["made"] or plan["planned"] else "there"} | answer


def due_times(rule: Rule, first: date, last: date, now: datetime) -> list[datetime]:
    """The schedule's due times on these days of its zone that are past; whatever its start and end."""
    zone = ZoneInfo(rule.zone)
    begin, end = (datetime.combine(day, time(), zone) for day in (first, last + timedelta(days=1)))
    bare = Rule(rule.cron, rule.zone)
    times = takewhile(lambda due: due < end and due <= now, bare.after(begin - timedelta(seconds=1)))
    return list(islice(times, MOST + 1))


async def change_backfill(ledger: Ledger, backfill: str, state: str, *, by: str) -> Answer:
    """Pause (`paused`), resume (`running`) or cancel (`cancelled`) it; runs that it began go on. `result`: the state, or there."""
    answer = dict(await ledger.calls.value("select set_backfill($1, $2, $3, $4)", UUID(backfill), state, by, ledger.clock.now()))
    if answer["result"] == "refused":
        return refused(answer["code"], backfill=backfill, state=answer.get("state"))
    await wake(ledger)
    return answer | {"backfill": backfill}
