"""The checker judges us, so it is judged first: a clean snapshot passes, and each forged violation is found under its invariant."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from streams.names import OURS
from tests.chaos.checker import INVARIANTS, check
from tests.chaos.peace import AT, CAUSE, INDEX, RUN, TENANT, peace
from tests.chaos.snapshot import Artefact, Record, Row, Snapshot
from tests.chaos.violation import Harm

Forge = Callable[[Snapshot], object]


def test_a_platform_that_kept_every_promise_is_not_accused() -> None:
    assert check(peace()) == []


def row(snap: Snapshot, table: str, **wanted: object) -> Row:
    return next(row for row in snap.tables[table] if all(row[name] == value for name, value in wanted.items()))


def changed(snap: Snapshot, topic: str, at: int, **fields: object) -> None:
    value = json.dumps({**json.loads(snap.records[topic][at].value or b"{}"), **fields}).encode()
    snap.records[topic][at] = snap.records[topic][at]._replace(value=value)


def appended(snap: Snapshot, topic: str, record: Record) -> None:
    """One more record, watermark and all: only what is forged is wrong."""
    at = len(snap.records[topic])
    snap.records[topic].append(record._replace(offset=at))
    snap.ends[topic, 0] = at + 1
    row(snap, "offsets", topic=topic)["next"] = at + 1


def a_second_run(snap: Snapshot) -> None:
    snap.tables["causes"].append({"run_id": uuid4(), "event_id": CAUSE, "at": AT})


def a_poison_record(snap: Snapshot) -> None:
    appended(snap, "training.requested", Record("training.requested", 0, 0, 0, b"acme", b"{", ()))


def a_second_command(snap: Snapshot) -> None:
    snap.accepted.append({**snap.accepted[0], "idempotency_key": f"{RUN}:train:1:on-0"})


def an_event_with_two_faces(snap: Snapshot) -> None:
    appended(snap, "training.validated", snap.records["training.validated"][0])
    changed(snap, "training.validated", 1, files=2)


def an_unpublished_event(snap: Snapshot) -> None:
    snap.records["run.finished"].clear()


def a_foreign_record(snap: Snapshot) -> None:
    changed(snap, "run.accepted", 0, tenant_id="somebody-else")


def an_event_that_nobody_said(snap: Snapshot) -> None:
    first = snap.records["training.validated"][0]
    headers = tuple((name, str(uuid4()).encode() if name == "ce_id" else value) for name, value in first.headers)
    appended(snap, "training.validated", first._replace(headers=headers))


def a_slot_that_fired_twice(snap: Snapshot) -> None:
    first = snap.records["training.requested"][0]
    for _ in range(2):
        said = uuid4()
        headers = tuple((n, str(said).encode() if n == "ce_id" else OURS.encode() if n == "ce_source" else v) for n, v in first.headers)
        appended(snap, "training.requested", first._replace(headers=headers))
        changed(snap, "training.requested", -1, slot=AT.isoformat())
        snap.tables["causes"].append({"run_id": RUN, "event_id": said, "at": AT})
    snap.tables["slots"] = [slot("fired")]


def slot(state: str) -> Row:
    return {"schedule_id": uuid4(), "tenant_id": TENANT, "due": AT, "fire_at": AT, "state": state, "run_id": None}


def scheduled(snap: Snapshot, *dues: int, missed: str = "all", **fields: object) -> None:
    """A schedule of each minute that has been moved on over minutes 0, 1 and 2, with requests for its slots at these minutes."""
    named = {"schedule_id": uuid4(), "name": "minutely", "tenant_id": TENANT, "cron": "* * * * *", "zone": "UTC", "missed": missed}
    snap.tables["schedules"] = [{**named, "starts_at": AT, "next_due": AT + timedelta(minutes=3), "paused": False} | fields]
    snap.tables["slots"] = [{**slot("skipped"), "schedule_id": named["schedule_id"], "due": AT + timedelta(minutes=due)} for due in dues]


def an_older_version_is_live(snap: Snapshot) -> None:
    snap.tables["versions"].append({**row(snap, "versions"), "number": 2, "state": "retired"})


FORGERIES: list[tuple[str, Harm, str, Forge]] = [
    ("I1", Harm.LOST, "a request that became no run", lambda s: s.tables["causes"].clear()),
    ("I1", Harm.DOUBLED, "a request that became two runs", a_second_run),
    ("I1", Harm.LOST, "poison without a dead letter", a_poison_record),
    ("I1", Harm.WRONG, "a run with an invented cause", lambda s: row(s, "causes").update(event_id=uuid4())),
    ("I1", Harm.LOST, "a record that Kafka lost", lambda s: s.sent.append(("training.requested", 3, 7))),
    ("I2", Harm.DOUBLED, "a stage accepted twice in one round", a_second_command),
    ("I2", Harm.LOST, "a done stage that no neighbour knows of", lambda s: s.accepted.pop()),
    ("I2", Harm.WRONG, "a command without a key", lambda s: s.accepted[0].update(idempotency_key=None)),
    ("I2", Harm.WRONG, "a command of no run", lambda s: s.accepted.append({**s.accepted[0], "idempotency_key": f"{UUID(int=5)}:train:1"})),
    ("I2", Harm.DOUBLED, "an event with two contents", an_event_with_two_faces),
    ("I2", Harm.LOST, "an event that never got to Kafka", an_unpublished_event),
    ("I3", Harm.WRONG, "a step that the journal does not tell of", lambda s: row(s, "steps", stage="deploy").update(state="failed")),
    ("I3", Harm.WRONG, "a journal with a hole", lambda s: s.tables["journal"].pop(2)),
    ("I3", Harm.WRONG, "a state on the topic that is not the row's", lambda s: changed(s, "run.state", 0, state="failed")),
    ("I4", Harm.LOST, "a run that never ended", lambda s: row(s, "runs").update(state="running")),
    ("I4", Harm.LOST, "a job waited for past its deadline", lambda s: row(s, "steps", stage="train").update(state="waiting", deadline=AT)),
    ("I5", Harm.WRONG, "a live version that is not served", lambda s: s.serving.update({TENANT: 7})),
    ("I5", Harm.WRONG, "a served version that is not live", lambda s: s.serving.update({"bolt": 1})),
    ("I5", Harm.LOST, "a live version without a manifest", lambda s: s.artefacts.clear()),
    ("I5", Harm.WRONG, "a live index with other bytes", lambda s: s.artefacts[INDEX].found.update({"index.faiss": "1" * 64})),
    ("I5", Harm.LOST, "a live version older than a success", an_older_version_is_live),
    ("I5", Harm.WRONG, "a listing cut short that was taken for the whole", lambda s: s.data.update({TENANT: (2, 100)})),
    ("I5", Harm.WRONG, "half a file that was taken for the whole", lambda s: s.data.update({TENANT: (1, 200)})),
    ("I5", Harm.LOST, "a broken read taken for bad data", lambda s: row(s, "runs").update(state="failed", code="broken_file")),
    ("I6", Harm.WRONG, "an index of another tenant", lambda s: s.artefacts.update({INDEX: Artefact("bolt", *s.artefacts[INDEX][1:])})),
    ("I6", Harm.WRONG, "a step under another tenant's name", lambda s: row(s, "versions").update(tenant_id="bolt")),
    ("I6", Harm.WRONG, "a command about another tenant", lambda s: s.accepted[0].update(tenant_id="bolt")),
    ("I6", Harm.WRONG, "a version made of another tenant's files", lambda s: row(s, "versions").update(model_path="models/bolt/m")),
    ("I6", Harm.WRONG, "an event that speaks of two tenants", a_foreign_record),
    ("I7", Harm.LOST, "a completion that nobody recorded", lambda s: s.tables["inbox"].pop()),
    ("I7", Harm.LOST, "an event in our name that nobody said", an_event_that_nobody_said),
    ("I7", Harm.LOST, "a watermark short of the end", lambda s: row(s, "offsets", topic="training.requested").update(next=0)),
    ("I7", Harm.WRONG, "a watermark beyond the end", lambda s: row(s, "offsets", topic="training.requested").update(next=9)),
    (
        "I7",
        Harm.LOST,
        "an open gap",
        lambda s: s.tables.update(gaps=[{"topic": "training.requested", "partition": 0, "first": 0, "past": 1, "state": "open"}]),
    ),
    ("I8", Harm.DOUBLED, "a slot that fired twice", a_slot_that_fired_twice),
    ("I8", Harm.LOST, "a slot that fired into nothing", lambda s: s.tables.update(slots=[slot("fired")])),
    ("I8", Harm.LOST, "a slot that never fired", lambda s: s.tables.update(slots=[slot("due")])),
    ("I8", Harm.LOST, "a due time that became no slot", lambda s: scheduled(s, 0, 2)),
    ("I8", Harm.LOST, "the last of the missed times left out", lambda s: scheduled(s, 0, 1, missed="latest")),
    ("I8", Harm.DOUBLED, "a slot at a time that was not due", lambda s: scheduled(s, 0, 1, 2, 3)),
    ("I8", Harm.DOUBLED, "two slots at one time", lambda s: scheduled(s, 0, 1, 1, 2)),
    ("I8", Harm.LOST, "a schedule that nobody moves on", lambda s: scheduled(s, next_due=AT, paused=False)),
    ("I9", Harm.LOST, "a backlog that stayed", lambda s: setattr(s, "drained", False)),
    ("I9", Harm.LOST, "an event left in the outbox", lambda s: s.tables.update(outbox=[{"topic": "run.finished", "created_at": AT}])),
    (
        "I9",
        Harm.LOST,
        "an event that cannot be published",
        lambda s: s.tables.update(unpublishable=[{"topic": "run.finished", "event_id": RUN, "error": "too large"}]),
    ),
    ("I9", Harm.LOST, "a step leased to the dead", lambda s: row(s, "steps", stage="warm").update(worker=uuid4())),
]


@pytest.mark.parametrize(("invariant", "harm", "what", "forge"), FORGERIES, ids=[f"{i}-{what}" for i, _, what, _ in FORGERIES])
def test_a_forged_violation_is_found(invariant: str, harm: Harm, what: str, forge: Forge) -> None:
    snapshot = peace()
    forge(snapshot)
    found = check(snapshot)
    assert (invariant, harm) in {(each.invariant, each.harm) for each in found}, [str(each) for each in found]


@pytest.mark.parametrize(("missed", "dues"), [("all", (0, 1, 2)), ("latest", (2,)), ("latest", (0, 2)), ("skip", (1,)), ("skip", ())])
def test_slots_that_follow_their_policy_are_not_accused(missed: str, dues: tuple[int, ...]) -> None:
    snapshot = peace()
    scheduled(snapshot, *dues, missed=missed)
    assert check(snapshot) == []


def test_every_invariant_has_a_forgery() -> None:
    assert {invariant for invariant, *_ in FORGERIES} == set(INVARIANTS)


def test_work_in_hand_is_overdue_only_after_its_grace() -> None:
    snapshot = peace()
    row(snapshot, "runs").update(state="running")
    patient = replace(snapshot, grace=timedelta(hours=1))
    assert not [each for each in check(patient) if each.invariant == "I4"]
