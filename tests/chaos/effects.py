"""Invariants about what went out: I2 (nothing done twice), I5 (what is live is whole and the newest), I6 (tenants apart)."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from schemas.states import StepState
from streams.names import OURS
from tests.chaos.events import told
from tests.chaos.snapshot import Record, Row, Snapshot, grouped
from tests.chaos.violation import Harm, Violation

Round = tuple[str, str, int]
"""(run, stage, round), as the first three parts of an idempotency key say it."""


def round_of(key: str | None) -> Round | None:
    """The round that a key speaks for; None for commands without a run (`alert:…`, `rollback:…`, `cancel:…`)."""
    parts = (key or "").split(":")
    try:
        return str(UUID(parts[0])), parts[1], int(parts[2])
    except (ValueError, IndexError):
        return None


def one_effect_a_round(snap: Snapshot) -> Iterator[Violation]:
    """A neighbour accepted at most one command a round, and of a stage that is done exactly one."""
    accepted: defaultdict[Round, list[Row]] = defaultdict(list)
    for row in snap.accepted:
        if row["idempotency_key"] is None:
            yield Violation("I2", Harm.WRONG, f"{row['path']} of {row['tenant_id']} was accepted at {row['at']} without an Idempotency-Key")
        elif key := round_of(row["idempotency_key"]):
            accepted[key].append(row)
    for (run, stage, number), rows in accepted.items():
        if len(rows) > 1:
            keys = [row["idempotency_key"] for row in rows]
            yield Violation("I2", Harm.DOUBLED, f"{stage} of run {run}, round {number}, was accepted {len(rows)} times: {keys}")
        if UUID(run) not in snap.runs:
            yield Violation("I2", Harm.WRONG, f"a neighbour accepted {rows[0]['idempotency_key']}, but there is no such run")
    for step in snap.rows("steps"):
        if step["state"] != StepState.DONE or step["stage"] not in snap.commands or step["pipeline"] != "training":
            continue
        key = str(step["run_id"]), step["stage"], step["round"]
        if not accepted.get(key):
            yield Violation(
                "I2", Harm.LOST, f"{step['stage']} of run {step['run_id']} is done in round {step['round']}, but no neighbour accepted it"
            )
        elif accepted[key][0]["path"] != snap.commands[step["stage"]]:
            yield Violation("I2", Harm.WRONG, f"{step['stage']} of run {step['run_id']} was accepted as {accepted[key][0]['path']}")


def one_face_an_event(snap: Snapshot) -> Iterator[Violation]:
    """However often an event of ours was published, it says the same."""
    for topic, records in snap.records.items():
        faces: dict[UUID, Record] = {}
        for record in records:
            if (event_id := record.id) is None or ("ce_source", OURS.encode()) not in record.headers:
                continue
            first = faces.setdefault(event_id, record)
            if first.value != record.value and _content(first) != _content(record):  # the order of an object's members says nothing
                yield Violation("I2", Harm.DOUBLED, f"{topic} has the event {event_id} with two contents: {told(first)} and {told(record)}")


def _content(record: Record) -> Any:
    return json.loads(record.value) if record.value else None


def every_event_published(snap: Snapshot) -> Iterator[Violation]:
    """What the journal says went out is on its topic; what was buried is on dead.letters."""
    there = {topic: {record.id for record in records} for topic, records in snap.records.items()}
    for row in snap.rows("journal"):
        if row["topic"] and row["event_id"] and row["event_id"] not in there.get(row["topic"], ()):
            yield Violation("I2", Harm.LOST, f"{row['topic']} {row['event_id']} of {row['tenant_id']} (journal {row['seq']}) is not on Kafka")
    for row in snap.rows("dead_letters"):
        if row["id"] not in there.get("dead.letters", ()):
            yield Violation("I2", Harm.LOST, f"dead letter {row['id']} ({row['topic']}@{row['offset']}) is not on dead.letters")


def live_versions_are_whole(snap: Snapshot) -> Iterator[Violation]:
    """What is live is whole, is what the inference service serves, and is no older than a newer success."""
    live = {row["tenant_id"]: row for row in snap.rows("versions") if row["state"] == "live"}
    for tenant, row in live.items():
        if snap.serving.get(tenant) != row["number"]:
            yield Violation("I5", Harm.WRONG, f"version {row['number']} of {tenant} is live, but {snap.serving.get(tenant)} is served")
        yield from _whole(tenant, row, snap)
    for tenant, number in snap.serving.items():
        if tenant not in live:
            yield Violation("I5", Harm.WRONG, f"version {number} of {tenant} is served, but the ledger has none as live")
    for tenant, rows in grouped(snap.rows("versions"), "tenant_id").items():
        succeeded = [r["number"] for r in rows if snap.runs.get(r["run_id"], {}).get("state") in ("succeeded", "succeeded_with_warnings")]
        newest, now = max(succeeded, default=0), live.get(tenant)
        if newest and (now is None or (now["number"] < newest and now["instead_of"] is None)):
            yield Violation("I5", Harm.LOST, f"version {newest} of {tenant} succeeded, but {now and now['number']} is live and no rollback says why")


def _whole(tenant: str, row: Row, snap: Snapshot) -> Iterator[Violation]:
    artefact = snap.artefacts.get(row["index_path"])
    if artefact is None or not artefact.promised:
        yield Violation("I5", Harm.LOST, f"version {row['number']} of {tenant} is live, but {row['index_path']} has no manifest")
        return
    if artefact.tenant_id != tenant:
        yield Violation("I6", Harm.WRONG, f"version {row['number']} of {tenant} serves an index of {artefact.tenant_id}")
    for name, digest in artefact.promised.items():
        if artefact.found.get(name) != digest:
            yield Violation("I5", Harm.WRONG, f"{row['index_path']}/{name}, live for {tenant}, is not the file its manifest names")


def tenants_are_apart(snap: Snapshot) -> Iterator[Violation]:
    """Whatever speaks of a run or lies in a tenant's folder is that tenant's."""
    owner = {run_id: run["tenant_id"] for run_id, run in snap.runs.items()}
    for table in ("steps", "jobs", "journal", "effects", "inbox", "versions"):
        for row in snap.rows(table):
            if row["run_id"] in owner and row["tenant_id"] != owner[row["run_id"]]:
                yield Violation("I6", Harm.WRONG, f"a row of {table} about run {row['run_id']} of {owner[row['run_id']]} says {row['tenant_id']}")
    for row in snap.accepted:
        key = round_of(row["idempotency_key"])
        if key and owner.get(UUID(key[0]), row["tenant_id"]) != row["tenant_id"]:
            yield Violation("I6", Harm.WRONG, f"{row['idempotency_key']} of {owner[UUID(key[0])]} was a command about {row['tenant_id']}")
    for row in snap.rows("versions"):
        for path, root in ((row["model_path"], "models"), (row["index_path"], "indices")):
            if not path.startswith(f"{root}/{row['tenant_id']}/"):
                yield Violation("I6", Harm.WRONG, f"version {row['number']} of {row['tenant_id']} is made of {path}")
    for record in snap.all_records():
        yield from _own_record(record, owner)


def _own_record(record: Record, owner: dict[UUID, str]) -> Iterator[Violation]:
    if ("ce_source", OURS.encode()) not in record.headers or record.topic in ("dead.letters",) or "changelog" in record.topic:
        return
    value: dict[str, Any] = json.loads(record.value or b"{}")
    run = UUID(value["run_id"]) if value.get("run_id") else None
    named = {(record.key or b"").decode(), value.get("tenant_id") or (record.key or b"").decode()} | ({owner[run]} if run in owner else set())
    if len(named) > 1:
        yield Violation("I6", Harm.WRONG, f"{told(record)} speaks of several tenants: {sorted(map(str, named))}")
