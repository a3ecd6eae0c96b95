"""Invariant I8: a schedule's due times become slots by its policy, and each slot one request."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim

from schemas.cloudevents import Received
from streams.names import OURS
from tests.chaos.events import REQUESTS
from tests.chaos.snapshot import Row, Snapshot, grouped
from tests.chaos.violation import Harm, Violation


def one_request_a_slot(snap: Snapshot) -> Iterator[Violation]:
    """A due time becomes one request a tenant and schedule: none is missing, none is there twice."""
    allowed = Counter((row["tenant_id"], row["due"]) for row in snap.rows("slots") if row["state"] == "fired")
    made: defaultdict[tuple[str, object], set[UUID]] = defaultdict(set)
    for record in snap.records.get(REQUESTS, []):
        received = record.read(snap.cluster)
        slot = getattr(received.event, "slot", None) if isinstance(received, Received) else None
        if isinstance(received, Received) and slot is not None and received.meta.source == OURS:
            made[received.event.tenant_id, slot].add(received.meta.id)
    for key in made.keys() | allowed.keys():
        if len(made[key]) > allowed[key]:
            yield Violation("I8", Harm.DOUBLED, f"the slot {key[1]} of {key[0]} fired {len(made[key])} times, {allowed[key]} were due: {made[key]}")
        elif len(made[key]) < allowed[key]:
            yield Violation("I8", Harm.LOST, f"the slot {key[1]} of {key[0]} counts as fired, but its request is not on {REQUESTS}")
    for row in snap.rows("slots"):
        if row["state"] == "due" and row["fire_at"] + snap.grace < snap.now:
            yield Violation("I8", Harm.LOST, f"the slot {row['due']} of {row['tenant_id']} was due at {row['fire_at']} and has not fired")


def slots_follow_their_schedule(snap: Snapshot) -> Iterator[Violation]:
    """Of a tenant's own schedule that says since when it holds: a slot at no other time, and at each time that its policy does not let go."""
    slots = grouped(snap.rows("slots"), "schedule_id")
    for row in snap.rows("schedules"):
        if row["tenant_id"] is None or row["starts_at"] is None or row["next_due"] is None:
            continue
        if not row["paused"] and row["next_due"] + snap.grace < snap.now:
            yield Violation("I8", Harm.LOST, f"{_name(row)} was due at {row['next_due']} and nobody has moved it on")
        times = _times(row)
        found = Counter(slot["due"] for slot in slots.get(row["schedule_id"], ()))
        for due in found.keys() - set(times):
            yield Violation("I8", Harm.DOUBLED, f"{_name(row)} has a slot at {due}, when it was not due")
        for due, count in found.items():
            if count > 1:
                yield Violation("I8", Harm.DOUBLED, f"{_name(row)} has {count} slots at {due}")
        for due in _owed(row, times):
            if not found[due]:
                yield Violation("I8", Harm.LOST, f"{_name(row)} was due at {due}, and there is no slot of it")


def _times(row: Row) -> list[datetime]:
    """Its due times up to the next one, by the cron library alone: the runtime's own reckoning is what is judged."""
    starts = row["starts_at"].astimezone(ZoneInfo(row["zone"])) - timedelta(seconds=1)
    return list(takewhile(lambda due: due < row["next_due"], CronSim(row["cron"], starts)))


def _owed(row: Row, times: list[datetime]) -> list[datetime]:
    """Those that no policy may leave out: `all` of them, or of those that were missed the last, after which it was moved on."""
    return times if row["missed"] == "all" else times[-1:] if row["missed"] == "latest" else []


def _name(row: Row) -> str:
    return f"the schedule {row['name']} (missed: {row['missed']})"
