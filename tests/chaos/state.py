"""Invariants about where things stand: I3 (rows are the fold of the journal), I4 (nothing overdue), I9 (everything drained)."""

import json
from collections.abc import Iterator
from uuid import UUID

from schemas.states import RunState
from streams.fold import fold
from streams.folded import Comparable, Entry, FoldError
from streams.proof.compare import differences
from tests.chaos.snapshot import Row, Snapshot, grouped
from tests.chaos.violation import Harm, Violation


def rows_are_the_fold(snap: Snapshot) -> Iterator[Violation]:
    """Each tenant's runs, steps and heads are what its journal comes to."""
    tables = {name: grouped(snap.rows(name), "tenant_id") for name in ("journal", "runs", "steps", "pipeline_heads")}
    for head in snap.rows("tenant_heads"):
        tenant = head["tenant_id"]
        entries = sorted(tables["journal"].get(tenant, []), key=lambda row: row["seq"])
        rows = Comparable.of_rows(head["seq"], *(tables[name].get(tenant, []) for name in ("runs", "steps", "pipeline_heads")))
        try:
            folded = fold(map(Entry.load, entries))
        except FoldError as error:
            yield Violation("I3", Harm.WRONG, str(error))
            continue
        for each in differences(tenant, folded, rows):
            yield Violation("I3", Harm.WRONG, f"{each.about} of {tenant}: {each.code}: {each.sentence}")


def topic_shows_the_rows(snap: Snapshot) -> Iterator[Violation]:
    """The newest `run.state` of each run is the run's row."""
    newest: dict[UUID, Row] = {}
    for record in snap.records.get("run.state", []):
        state = json.loads(record.value or b"{}")
        run_id = UUID(state["run_id"])
        if run_id not in newest or newest[run_id]["version"] < state["version"]:
            newest[run_id] = state
    for run_id, run in snap.runs.items():
        shown = newest.get(run_id, {})
        if (shown.get("state"), shown.get("version")) != (run["state"], run["version"]):
            said = f"{shown.get('state')} (version {shown.get('version')})"
            yield Violation("I3", Harm.WRONG, f"run.state says that run {run_id} is {said}, the ledger {run['state']} (version {run['version']})")


def nothing_overdue(snap: Snapshot) -> Iterator[Violation]:
    """No run is open past the grace that the drain gave it, and no step past its deadline."""
    for run_id, run in snap.runs.items():
        if not RunState(run["state"]).terminal and run["requested_at"] + snap.grace < snap.now:
            steps = [row for row in snap.rows("steps") if row["run_id"] == run_id and row["stage"] == run["stage"]]
            where = "; ".join(f"{s['stage']} is {s['state']}, due {s['due_at']}, worker {s['worker']}, {s['code']}" for s in steps)
            yield Violation("I4", Harm.LOST, f"run {run_id} of {run['tenant_id']} is still {run['state']} ({where})")
    for step in snap.rows("steps"):
        if step["state"] == "waiting" and step["deadline"] and step["deadline"] + snap.grace < snap.now:
            yield Violation("I4", Harm.LOST, f"{step['stage']} of run {step['run_id']} waits past its deadline {step['deadline']}")


def everything_drained(snap: Snapshot) -> Iterator[Violation]:
    """The backlog is gone: nothing in the outbox, nothing refused for good, nothing leased to the dead."""
    if not snap.drained:
        yield Violation("I9", Harm.LOST, "the backlog did not drain in the time it was given")
    if rows := snap.rows("outbox"):
        yield Violation("I9", Harm.LOST, f"{len(rows)} events lie in the outbox, the oldest ({rows[0]['topic']}) since {rows[0]['created_at']}")
    for row in snap.rows("unpublishable"):
        yield Violation("I9", Harm.LOST, f"{row['topic']} {row['event_id']} cannot be published: {row['error']}")
    alive = {row["worker_id"] for row in snap.rows("workers") if row["lease_until"] > snap.now}
    for step in snap.rows("steps"):
        if step["worker"] is not None and step["worker"] not in alive:
            yield Violation("I9", Harm.LOST, f"{step['stage']} of run {step['run_id']} is leased to the worker {step['worker']}, which is gone")
