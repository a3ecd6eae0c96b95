"""Invariants about what came in: I1 (one run a trigger), I7 (no offset unaccounted for)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from uuid import UUID

from schemas.catalogue import FOREIGN
from schemas.cloudevents import Received, Refused
from streams.names import OURS, inbox_key
from tests.chaos.snapshot import Place, Record, Snapshot, place
from tests.chaos.violation import Harm, Violation

REQUESTS = "training.requested"


def one_run_a_trigger(snap: Snapshot) -> Iterator[Violation]:
    """Every request on the topic is the cause of exactly one run, or a dead letter with its reason."""
    causes = Counter(row["event_id"] for row in snap.rows("causes"))
    asked: defaultdict[UUID, list[Record]] = defaultdict(list)
    for record in snap.records.get(REQUESTS, []):
        received = record.read(snap.cluster)
        if isinstance(received, Received):
            asked[received.meta.id].append(record)
        elif record.place not in snap.dead_places:
            yield Violation("I1", Harm.LOST, f"{told(record)} is no good event ({received.code}), but there is no dead letter of it")
    for event_id, records in asked.items():
        runs = causes[event_id]
        if runs == 0 and not all(record.place in snap.dead_places for record in records):
            yield Violation("I1", Harm.LOST, f"request {event_id} ({told(records[0])}) is the cause of no run, and no dead letter")
        elif runs > 1:
            yield Violation("I1", Harm.DOUBLED, f"request {event_id} ({told(records[0])}) is a cause of {runs} runs")
    yield from _causes_are_real(snap, causes, asked.keys())


def _causes_are_real(snap: Snapshot, causes: Counter[UUID], asked: object) -> Iterator[Violation]:
    for event_id in causes.keys() - set(asked) if REQUESTS in snap.records else ():  # type: ignore[call-overload]
        row = next(row for row in snap.rows("causes") if row["event_id"] == event_id)
        if snap.runs.get(row["run_id"], {}).get("pipeline", "training") == "training":
            yield Violation("I1", Harm.WRONG, f"run {row['run_id']} names {event_id} as a cause, but {REQUESTS} has no such request")
    counted = Counter(row["run_id"] for row in snap.rows("causes"))
    for run_id, run in snap.runs.items():
        if counted[run_id] != run["causes"] or not counted[run_id]:
            yield Violation("I1", Harm.WRONG, f"run {run_id} of {run['tenant_id']} counts {run['causes']} causes and lists {counted[run_id]}")


def acknowledged_is_there(snap: Snapshot) -> Iterator[Violation]:
    """Kafka kept what it acknowledged; else nobody could, and the run proves nothing."""
    there = {record.place for record in snap.all_records()}
    for each in snap.sent:
        if each not in there:
            yield Violation("I1", Harm.LOST, f"Kafka acknowledged {spot(each)}, but the log does not have it")


def every_offset_is_accounted_for(snap: Snapshot) -> Iterator[Violation]:
    """Each record that the agents read is in the inbox, an echo of ours, or a dead letter; watermarks are at the ends; no gap is open."""
    places = {place(row) for row in snap.rows("inbox") if row["offset"] is not None}
    keys = {row["event_key"] for row in snap.rows("inbox")}
    for topic in sorted(snap.read):
        for record in snap.records.get(topic, []):
            if record.place in places or record.place in snap.dead_places or _known(record, snap, keys):
                continue
            yield Violation("I7", Harm.LOST, f"{told(record)} is in neither inbox nor dead letters")
    yield from _watermarks(snap)


def _known(record: Record, snap: Snapshot, keys: set[UUID]) -> bool:
    """Seen before under the same key, an echo of ours, or a fact that no pipeline of ours wants."""
    received = record.read(snap.cluster)
    if isinstance(received, Refused):
        return False
    if received.meta.source == OURS:
        return received.meta.id in snap.said
    if record.topic not in FOREIGN:
        return False
    tenant = received.event.tenant_id
    return tenant is None or inbox_key(tenant, received.meta.source, received.meta.id) in keys


def _watermarks(snap: Snapshot) -> Iterator[Violation]:
    marks = {(row["topic"], row["partition"]): row["next"] for row in snap.rows("offsets")}
    for (topic, partition), end in snap.ends.items():
        mark = marks.get((topic, partition), 0)
        if topic in snap.read and mark != end:
            harm = Harm.LOST if mark < end else Harm.WRONG
            yield Violation("I7", harm, f"the watermark of {topic}[{partition}] is {mark}, the log's end is {end}")
    for row in snap.rows("gaps"):
        if row["state"] in ("open", "expired"):
            yield Violation("I7", Harm.LOST, f"the gap {row['topic']}[{row['partition']}] {row['first']} to {row['past']} is {row['state']}")


def told(record: Record) -> str:
    return f"{spot(record.place)} (key {record.key!r:.70})"


def spot(at: Place) -> str:
    return f"{at[0]}[{at[1]}]@{at[2]}"
