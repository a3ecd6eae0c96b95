"""The timer agent: due schedules become slots, due slots become requests. Any worker may do it; the rows see to it that each fires once."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import structlog
from pydantic import ValidationError

from schemas.cloudevents import body_hash
from schemas.context import NAMESPACE
from streams.calmly import calmly
from streams.faultpoints import point
from streams.hold import Gate
from streams.items import request_item
from streams.ledger.accepted import accepted, asked
from streams.ledger.connection import Connection, is_conflict, is_outage
from streams.ledger.ledger import Answer, Clocklike
from streams.membership import WAKE_CHANNEL
from streams.names import OURS
from streams.pipelines import Pipelines
from streams.records import Row
from streams.schedule import BadSchedule, Rule, missed

log = structlog.get_logger(__name__)

IDLE = 0.5
SCHEDULES, SLOTS = 20, 500
"""How many are moved on in one transaction."""
LOOK = timedelta(seconds=5)
"""How often a worker notes that it looked: far below the minute after which due times count as missed."""
TOLD_AT_ONCE = 100
"""Runs that are put into words before others have the event loop again."""
LONGEST_HOLD = 10.0
"""Seconds for which a crowd of due slots goes before the work that they make."""


_BACKFILLS = "select 1 from backfills where state = 'running' limit 1"


class Timers:
    """Polls the two tables; every step is one transaction that a crash undoes whole."""

    def __init__(
        self, pipelines: Pipelines, connection: Connection, clock: Clocklike, *, publish: Callable[[list[Row]], None], begin: Callable[[], None]
    ) -> None:
        """`publish` takes durable rows of the outbox; `begin` is told that there are runs to begin."""
        self._pipelines, self._connection, self._clock, self._publish, self._begin = pipelines, connection, clock, publish, begin
        self._gate = Gate("schedules", pipelines.settings.runtime.outbox_max)
        self._behind_since: float | None = None
        self._looked: datetime | None = None
        self._later: list[Callable[[], Row]] = []
        self._woken = asyncio.Event()

    @property
    def behind(self) -> bool:
        """More slots are due than one transaction takes: all are asked for first, then their runs are told of, and begin."""
        return self._behind_since is not None and time.monotonic() - self._behind_since < LONGEST_HOLD

    async def run(self) -> None:
        """Fire until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                    made, fed, fired = await self.make_slots(), await self.feed(), await self.fire_slots()
                    if made or fed or fired:
                        continue
                except Exception as error:
                    if not (is_outage(error) or is_conflict(error)):
                        log.exception("timers failed; trying again")
                    await self._connection.drop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            self._publish([row() for row in self._later])

    def wake(self) -> None:
        """Somebody made work elsewhere: look for it now."""
        self._woken.set()

    async def look(self) -> None:
        """Note that somebody is there. When nobody was, the slots of meanwhile are settled first, by their schedules' policy for missed ones."""
        now = self._clock.now()
        if self._looked is not None and abs(now - self._looked) < LOOK:
            return
        missed_slots = await self._connection.value("select look_at_slots($1)", now)
        self._looked = now
        if missed_slots:
            log.warning("slots were missed while no worker was there", code="slots_missed", slots=missed_slots)

    async def make_slots(self) -> int:
        """Turn due schedules into slots; how many schedules were due. A crowd is for everybody: the other workers are told."""
        now = self._clock.now()
        async with self._connection.transaction() as raw:
            rows = await raw.fetch("select * from due_schedules($1, $2)", now, SCHEDULES)
            if rows and await self._gate.shut(raw.fetch):
                return 0
            if sum([await make_slots(raw, row, now) for row in rows]) > SLOTS:
                await raw.execute("select pg_notify($1, '')", WAKE_CHANNEL)
        return len(rows)

    async def feed(self) -> int:
        """Let the next slots of backfills become due; how many."""
        if not await self._connection.fetch(_BACKFILLS):
            return 0
        return int(await self._connection.value("select feed_backfills($1)", self._clock.now()))

    async def fire_slots(self) -> int:
        """Turn due slots into requests; how many slots were due. Requests and slots are one transaction."""
        now = self._clock.now()
        async with self._connection.transaction() as raw:
            due = await raw.fetch("select * from due_slots($1, $2)", now, SLOTS)
            if due and await self._gate.shut(raw.fetch):
                due = []
            if due:
                point("slot.firing")
            if held := [_key(row) for row in due if row["paused"]]:
                await raw.execute("select hold_slots($1)", held)
            fire, items, skipped = self._judge([row for row in due if not row["paused"]])
            slots = [row["schedule_id"] for row in fire], [row["due"] for row in fire]
            fired = await raw.fetch("select * from fire_slots($1, $2, $3, $4)", items, *slots, now) if items else []
            if skipped:
                await raw.execute("select settle_slots($1, $2)", skipped, now)
        self._behind_since = (self._behind_since or time.monotonic()) if len(due) == SLOTS else None
        self._follow([(items[row["n"] - 1], row) for row in fired], now)
        if self._later and not self.behind:
            await self._tell()
        return len(due)

    def _follow(self, fired: Sequence[tuple[Answer, Any]], now: datetime) -> None:
        """Publish the requests now; what they came to is put into words and published when the crowd is through."""
        unusual = [told for _, row in fired if row["answer"] for told in row["answer"].get("outbox", [])]
        usual = [(item, row) for item, row in fired if not row["answer"]]
        self._publish([*(asked(item, row, now) for item, row in usual), *(told for told in unusual if not told["state"])])
        self._later += [partial(accepted, item, row, now) for item, row in usual]
        self._later += [partial(dict, told) for told in unusual if told["state"]]

    async def _tell(self) -> None:
        later, self._later = self._later, []
        rows = [row() async for row in calmly(later, at_once=TOLD_AT_ONCE)]
        self._publish(rows)
        self._begin()

    def _judge(self, rows: Sequence[Any]) -> tuple[list[Any], list[Answer], list[Answer]]:
        """The slots that fire, tenant by tenant, with their requests; and those that do not, with the reason.

        A slot that minds other runs is left due when one before it fires: what was read of the tenant holds no more, the next transaction judges it.
        """
        fire: list[Any] = []
        items: list[Answer] = []
        skipped: list[Answer] = []
        bad = Counter[tuple[str, str]]()
        begun: set[tuple[str, str]] = set()
        for row in sorted(rows, key=lambda row: str(row["tenant_id"])):
            reason = _skipped(row)
            if reason is None:
                pipeline = row["tenant_id"], row["pipeline"]
                if row["overlap"] != "merge" and pipeline in begun:
                    continue
                try:
                    items.append(self._request(row) | {"n": len(items) + 1})
                    fire.append(row)
                    begun.add(pipeline)
                    continue
                except (KeyError, ValidationError) as error:  # the rules of today; the schedule was held to those of its day
                    reason = _unfit(row, error)
                    bad[row["name"], reason] += 1
            skipped.append(_key(row) | {"state": "skipped", "reason": reason})
        for (name, reason), count in bad.items():
            log.error("slots cannot be made into requests; they are skipped", code="bad_slot", schedule=name, slots=count, reason=reason)
        return fire, items, skipped

    def _request(self, row: Any) -> Answer:
        pipeline = self._pipelines.by_name[row["pipeline"]]
        said = row["request"] | {"tenant_id": row["tenant_id"], "slot": row["due"].astimezone(UTC).isoformat()}
        event = pipeline.entry.model_validate(said)
        event_id: UUID = uuid5(NAMESPACE, f"slot\n{row['schedule_id']}\n{row['tenant_id']}\n{row['due'].astimezone(UTC).isoformat()}")
        item = request_item(self._pipelines, pipeline, event, event_id, OURS, body_hash(event.dump())) | {"publish": True, "overlap": row["overlap"]}
        return {key: value for key, value in item.items() if value is not None}


async def make_slots(raw: "asyncpg.Connection[Any]", row: Any, now: datetime) -> int:
    """Slots for the times that a schedule missed, by its policy, how many; one that nobody can follow is paused."""
    try:
        dues, following = missed(rule_of(row), row["next_due"], now)
    except BadSchedule as error:
        log.error("a schedule cannot be followed; it is paused", code="bad_schedule", schedule=row["name"], reason=str(error))
        await raw.execute("update schedules set paused = true where schedule_id = $1", row["schedule_id"])
        await raw.execute("select note_schedule($1, 'paused', $2, $3)", row["schedule_id"], f"timers: {error}"[:200], now)
        return 0
    return int(await raw.fetchval("select make_slots($1, $2, $3)", row["schedule_id"], dues, following))


def rule_of(row: Any) -> Rule:
    """The rule in a schedule's row."""
    return Rule(row["cron"], row["zone"], row["missed"], row["catch_up"], row["starts_at"], row["ends_at"])


def _skipped(row: Any) -> str | None:
    """Why a slot does not fire, or None."""
    return "a run was active (overlap: skip)" if row["overlap"] == "skip" and row["busy"] else None


def _unfit(row: Any, error: KeyError | ValidationError) -> str:
    """Why a slot cannot be made into a request."""
    if isinstance(error, KeyError):
        return f"there is no pipeline {row['pipeline']}"
    parts = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, ('request', *part['loc'])))}: {part['msg']}" for part in parts)[:200]


def _key(row: Any) -> Answer:
    return {"schedule_id": str(row["schedule_id"]), "tenant_id": row["tenant_id"], "due": row["due"].isoformat()}
