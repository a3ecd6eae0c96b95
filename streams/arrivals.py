"""Training when data arrives: a periodic, cheap look at the files of the tenants that want it, and a decision with its reason, kept.

The look is level-triggered: what counts is the difference between the files now and those that the newest training saw, so nothing that
arrives while everything is down is missed. Cron schedules stay the floor. Off unless a tenant sets `arrivals.train`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog

from streams.hold import hold
from streams.ledger.connection import Connection
from streams.ledger.ledger import Ledger
from streams.pipelines import Pipelines
from streams.requests import request_run
from streams.settings import ArrivalSettings
from streams.stage import GiveUp, TryAgain

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Folders listed at a time."""
MOST_KNOWN = 20_000
"""Files that are remembered one by one; of a greater folder any change counts as if all of it were new."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Listing(NamedTuple):
    """A tenant's data as it lies there now."""

    fingerprint: str
    files: dict[str, int]
    """A digest of each file -> its bytes."""


class Decision(NamedTuple):
    """Whether to ask for a training (`code` is `asked`), and why."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """Enough, and not too often."""

    least_bytes: int
    apart: timedelta
    per_day: int


_KNOWN = "select known from arrivals where tenant_id = $1"
Look = Callable[[str, Any], Awaitable[Listing]]


def decide(facts: Mapping[str, Any], found: Listing, bounds: Bounds, now: datetime) -> Decision:
    """The first thing that speaks against a training now; else it is asked for."""
    new = new_bytes(facts, found)
    if not found.files:
        return Decision("no_files", "there are no files yet")
    if found.fingerprint == facts["seen"]:
        return Decision("nothing_new", "the newest training saw just these files")
    if found.fingerprint == facts["asked"]:
        return Decision("asked_before", "a training was asked for when these files arrived; schedules and requests by hand still train")
    if found.fingerprint != facts["fingerprint"]:
        return Decision("still_arriving", f"{new:,} new bytes, and the files changed since the last look: decided when they stay the same for one")
    if new < bounds.least_bytes:
        return Decision("too_little", f"{new:,} of the {bounds.least_bytes:,} new bytes that are worth a training")
    if facts["paused"]:
        return Decision("paused", f"{new:,} new bytes, but training is paused")
    if facts["open"]:
        return Decision("run_open", f"{new:,} new bytes, but run {str(facts['newest_run'])[:8]} is not over")
    if facts["requested_at"] is not None and (since := now - facts["requested_at"]) < bounds.apart:
        why = f"the last training was asked for {_hours(since)} ago; {_hours(bounds.apart)} lie between two"
        return Decision("too_soon", f"{new:,} new bytes, but {why}")
    if facts["today"] >= bounds.per_day:
        why = f"{facts['today']} of the {bounds.per_day} trainings that arrivals may ask for within 24 h were asked for"
        return Decision("day_full", f"{new:,} new bytes, but {why}")
    return Decision("asked", f"{new:,} new bytes; the folder holds {len(found.files)} file{'s' if len(found.files) > 1 else ''}")


def new_bytes(facts: Mapping[str, Any], found: Listing) -> int:
    """Bytes in files that the newest training did not see."""
    if found.fingerprint == facts["seen"]:
        return 0
    known = set(facts["known"] or ())
    return sum(size for digest, size in found.files.items() if digest not in known)


def bounds_of(own: Mapping[str, Any], settings: ArrivalSettings) -> Bounds:
    """The tenant's own bounds over the platform's."""
    return Bounds(
        own.get("least_bytes", settings.least_bytes),
        span(own["apart"]) if "apart" in own else settings.apart,
        own.get("per_day", settings.per_day),
    )


def span(value: float | str) -> timedelta:
    """A duration as tenants set it: seconds, or such as 90m."""
    return timedelta(**{_UNITS[value[-1]]: int(value[:-1])}) if isinstance(value, str) else timedelta(seconds=value)


class Arrivals:
    """The look, over a connection of its own."""

    def __init__(self, connection: Connection, ledger: Ledger, pipelines: Pipelines, services: Any, look: Look) -> None:
        self._connection, self._ledger, self._pipelines, self._services, self._list = connection, ledger, pipelines, services, look
        self._settings = pipelines.settings.arrivals

    async def look(self) -> dict[str, Decision]:
        """One look at every tenant that wants it; what was decided for each whose files could be listed."""
        wanted = await self._connection.fetch("select * from arrivals_wanted($1)", self._ledger.clock.now())
        room = asyncio.Semaphore(AT_ONCE)
        decided: dict[str, Decision] = {}

        async def one(facts: Mapping[str, Any]) -> None:
            async with room:
                try:
                    found = await self._list(facts["tenant_id"], self._services)
                except (TryAgain, GiveUp) as why:
                    log.warning("a tenant's files could not be listed; again later", tenant=facts["tenant_id"], code=why.code, reason=str(why))
                    return
                known = await self._connection.value(_KNOWN, facts["tenant_id"])
                decided[facts["tenant_id"]] = await self._one({**facts, "known": known}, found)

        async with asyncio.TaskGroup() as group:
            for facts in wanted:
                group.create_task(one(dict(facts)))
        return decided

    async def _one(self, facts: Mapping[str, Any], found: Listing) -> Decision:
        """Decide for one tenant, ask, and keep what was decided. Asked twice after a crash is asked once: the key is the data's."""
        tenant, now = facts["tenant_id"], self._ledger.clock.now()
        decision = decide(facts, found, bounds_of(facts["own"], self._settings), now)
        run = None
        if decision.code == "asked" and (held := await hold(self._connection.fetch, self._pipelines.settings.runtime.outbox_max)):
            decision = Decision("refused", f"{held.code}: {held.sentence}")
        if decision.code == "asked":
            key = f"arrival:{found.fingerprint[:32]}:{facts['newest_run']}"
            answer = await request_run(
                self._ledger, self._pipelines, tenant_id=tenant, request_key=key, reason=f"data arrived: {decision.reason}", source="arrivals"
            )
            if answer["result"] == "refused":
                decision = Decision("refused", f"{answer['code']}: {answer['sentence']}")
            run = answer.get("run_id")
        seen = found.fingerprint == facts["seen"]
        kept = {
            "tenant_id": tenant,
            "fingerprint": found.fingerprint,
            "files": len(found.files),
            "bytes": sum(found.files.values()),
            "new_bytes": new_bytes(facts, found),
            "known": list(found.files)[:MOST_KNOWN] if seen else facts["known"] or [],
            "asked": found.fingerprint if decision.code == "asked" else facts["asked"],
            "code": decision.code,
            "reason": decision.reason,
            "run_id": run,
        }
        await self._connection.fetch("select note_arrival($1, $2)", kept, now)
        return decision


def _hours(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
