"""The invariants I1, I2, I3, I4, I6 and I7 over what is left when a world has come to rest: ledger, topics, neighbours' journals."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas.cloudevents import Received, Refused, decode
from schemas.context import Origin
from schemas.states import RunState, StepState
from streams import names
from streams.fold import fold
from streams.folded import Comparable, Entry, FoldError
from streams.items import Arrived
from streams.proof.compare import differences
from tests.simulation.neighbours import Accepted, Job

Row = dict[str, Any]
TABLES = (
    "journal",
    "runs",
    "steps",
    "causes",
    "inbox",
    "outbox",
    "offsets",
    "gaps",
    "dead_letters",
    "jobs",
    "pipeline_heads",
    "tenant_heads",
    "limit_slots",
)
OPEN = {RunState.PENDING, RunState.RUNNING, RunState.CANCELLING}
STEP_OPEN = {StepState.READY, StepState.RUNNING, StepState.WAITING}


@dataclass
class Facts:
    """All that the checker looks at; tests forge it."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in TABLES})
    records: list[Arrived] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)
    """Topics that the group reads."""
    answers: list[Any] = field(default_factory=list)
    """Requests that the API said yes to: tenant_id, event_id, run_id."""
    effects: list[Accepted] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    cancelled: set[UUID] = field(default_factory=set)
    refused: set[UUID] = field(default_factory=set)
    commands: dict[str, str] = field(default_factory=dict)
    """Stage -> its command, for stages that have one."""
    cluster: str = "simulation"


def check(facts: Facts) -> list[str]:
    """Every violation as a sentence that begins with the invariant's name."""
    found: list[str] = []
    for rule in RULES:
        found += rule(facts)
    return found


def one_run_a_trigger(facts: Facts) -> Iterator[str]:
    """I1: each accepted trigger has exactly one run or is named among a run's causes, and no run comes from nothing."""
    runs = {row["run_id"]: row for row in facts.tables["runs"]}
    of_event: dict[UUID, list[Row]] = defaultdict(list)
    for row in facts.tables["causes"]:
        of_event[row["event_id"]].append(row)
    asked: set[UUID] = set()
    for record, received in decoded(facts, "training.requested"):
        if received is None or received.meta.source == names.OURS:
            continue
        asked.add(received.meta.id)
        causes = of_event.get(received.meta.id, [])
        if len(causes) != 1:
            yield f"I1: {len(causes)} runs for the request {received.meta.id} of {received.event.tenant_id} ({place(record)})"
        elif causes[0]["run_id"] not in runs or runs[causes[0]["run_id"]]["tenant_id"] != received.event.tenant_id:
            yield f"I1: the request {received.meta.id} belongs to a run that is not there or not of {received.event.tenant_id}"
    for answer in facts.answers:
        asked.add(answer.event_id)
        causes = of_event.get(answer.event_id, [])
        if [row["run_id"] for row in causes] != [answer.run_id]:
            there = [str(row["run_id"]) for row in causes]
            yield f"I1: the API answered {answer.tenant_id} with run {answer.run_id}; the request is a cause of {there}"
    known = asked | {row["event_id"] for row in facts.tables["journal"] if row["kind"] == "requested"}
    for event in of_event.keys() - known:
        yield f"I1: a run has the cause {event}, which nobody asked for"
    counted = Counter(row["run_id"] for row in facts.tables["causes"])
    for run in runs.values():
        if counted[run["run_id"]] != run["causes"]:
            yield f"I1: run {run['run_id']} counts {run['causes']} causes and names {counted[run['run_id']]}"


def one_effect_a_round(facts: Facts) -> Iterator[str]:
    """I2: at most one accepted effect per (run, stage, round), another round only after a bad end or a reopening, exactly one for a step done."""
    reopened = {row["run_id"] for row in facts.tables["journal"] if row["kind"] == "reopened"}
    rounds: dict[tuple[str, str], dict[int, Accepted]] = defaultdict(dict)
    for effect in facts.effects:
        parts = effect.key.split(":on-")[0].split(":")  # a deploy that met another live version than expected has a key of its own
        # a refusal is no effect, and what is put back speaks for no round
        if len(parts) != 3 or parts[0] == "rollback" or not parts[2].isdigit() or "conflict" in effect.reply:
            continue
        run, stage, number = parts[0], parts[1], int(parts[2])
        if facts.commands.get(stage) != effect.command:
            yield f"I2: {stage} of run {run} sent {effect.command}"
        if number in rounds[run, stage]:
            yield f"I2: two effects of run {run}, {stage}, round {number}"
        rounds[run, stage][number] = effect
    for (run, stage), made in rounds.items():
        for number in made:
            if number > 1 and UUID(run) not in reopened and not (number - 1 in made and made[number - 1].ended_badly):
                yield f"I2: {stage} of run {run} was done again in round {number}, though round {number - 1} did not end badly"
    for step in facts.tables["steps"]:
        if (
            step["state"] == StepState.DONE
            and step["stage"] in facts.commands
            and step["round"] not in rounds.get((str(step["run_id"]), step["stage"]), {})
        ):
            yield f"I2: {step['stage']} of run {step['run_id']} is done in round {step['round']}, but no neighbour did anything"


def rows_follow_the_journal(facts: Facts) -> Iterator[str]:
    """I3: numbers without holes, versions that are the last number, and rows that are the fold of their journal."""
    last = {row["run_id"]: row["seq"] for row in in_order(facts)}
    for run in facts.tables["runs"]:
        if run["version"] != last.get(run["run_id"]):
            yield f"I3: run {run['run_id']} has version {run['version']}, its last entry is {last.get(run['run_id'])}"
    for head in facts.tables["tenant_heads"]:
        tenant, seq = head["tenant_id"], head["seq"]
        entries, runs, steps, heads = (
            [row for row in rows if row["tenant_id"] == tenant]
            for rows in (in_order(facts), facts.tables["runs"], facts.tables["steps"], facts.tables["pipeline_heads"])
        )
        if [row["seq"] for row in entries] != list(range(1, seq + 1)):
            yield f"I3: the journal of {tenant} counts {[row['seq'] for row in entries]}, its head says {seq}"
        try:
            folded = fold(Entry.load(row) for row in entries)
        except FoldError as error:
            yield f"I3: {error}"
            continue
        for found in differences(tenant, folded, Comparable.of_rows(seq, runs, steps, heads)):
            yield f"I3: {found.about} of {tenant} ({found.code}): {found.sentence}"


def everything_ends(facts: Facts) -> Iterator[str]:
    """I4: no run, step, limit or outbox row is left open, and every bad end is one that somebody made."""
    for run in facts.tables["runs"]:
        if run["state"] in OPEN:
            steps = [
                f"{s['stage']} {s['state']} round {s['round']} attempt {s['attempt']} due {s['due_at']} worker {s['worker']} {s['code'] or ''}"
                for s in facts.tables["steps"] if s["run_id"] == run["run_id"] and s["state"] in STEP_OPEN
            ]  # fmt: skip
            yield f"I4: run {run['run_id']} of {run['tenant_id']} is {run['state']} at {run['stage']}: {steps}"
        elif (why := _unfounded(run, facts)) is not None:
            yield f"I4: run {run['run_id']} of {run['tenant_id']} is {run['state']} at {run['stage']} with {run['code']} ({run['reason']}): {why}"
    over = {run["run_id"] for run in facts.tables["runs"] if run["state"] not in OPEN}
    for step in facts.tables["steps"]:
        if step["run_id"] in over and step["state"] in STEP_OPEN:
            yield f"I4: run {step['run_id']} is over, its {step['stage']} is {step['state']}"
    for head in facts.tables["pipeline_heads"]:
        if head["active_run"] in over or head["pending_run"] in over:
            yield f"I4: {head['tenant_id']} still counts a finished run as active or pending: {head['active_run']}, {head['pending_run']}"
    for slot in facts.tables["limit_slots"]:
        if slot["run_id"] in over:
            yield f"I4: run {slot['run_id']} is over and holds a slot of {slot['name']}"


def _unfounded(run: Row, facts: Facts) -> str | None:
    """Why the run should not have ended as it did; None when all is as it should be."""
    match run["state"]:
        case RunState.FAILED:
            return None if run["run_id"] in facts.refused else "nobody refused it"
        case RunState.CANCELLED:
            return None if run["run_id"] in facts.cancelled else "nobody cancelled it"
        case RunState.SUCCEEDED | RunState.SUCCEEDED_WITH_WARNINGS:
            return None
        case RunState.TIMED_OUT:
            return (
                None if any(job.ended_at is None for job in facts.jobs.values() if str(run["run_id"]) in job.accepted.key) else "its jobs had ended"
            )
    return "no fault leads there"


def one_at_a_time(facts: Facts) -> Iterator[str]:
    """Promise 3: never two active runs of a tenant, at no number of its journal."""
    active: dict[tuple[str, str], UUID] = {}
    pipelines = {row["run_id"]: row["pipeline"] for row in facts.tables["runs"]}
    for row in in_order(facts):
        data, run = as_json(row["data"]), row["run_id"]
        key = (row["tenant_id"], pipelines.get(run, ""))
        if (row["kind"] == "accepted" and not data["pending"]) or row["kind"] in ("started", "reopened"):
            if active.get(key, run) != run:
                yield f"I3: {row['tenant_id']} has two active runs at {row['seq']}: {active[key]} and {run}"
            active[key] = run
        elif row["kind"] == "finished" and active.get(key) == run:
            del active[key]


def nobody_elses(facts: Facts) -> Iterator[str]:
    """I6: what a run took from a job, an event or a neighbour is its own tenant's."""
    tenants = {str(row["run_id"]): row["tenant_id"] for row in facts.tables["runs"]}
    for effect in facts.effects:
        run = effect.key.split(":")[0]
        if run in tenants and tenants[run] != effect.tenant_id:
            yield f"I6: {effect.command} under {effect.key} was for {effect.tenant_id}, the run is {tenants[run]}'s"
    for row in facts.tables["inbox"]:
        if row["run_id"] is not None and tenants.get(str(row["run_id"])) not in (None, row["tenant_id"]):
            yield f"I6: an event of {row['tenant_id']} was given to run {row['run_id']} of {tenants[str(row['run_id'])]}"
    for step in facts.tables["steps"]:
        output = as_json(step["output"])
        job = facts.jobs.get((output or {}).get("job_id", ""))
        if job is not None and step["state"] == StepState.DONE and any(output.get(name) != value for name, value in job.facts.items()):
            yield f"I6: {step['stage']} of run {step['run_id']} of {step['tenant_id']} ended with {output}, its job made {job.facts}"


def every_offset(facts: Facts) -> Iterator[str]:
    """I7: watermarks reach the ends; every foreign record is in the inbox or a dead letter; no gap is open."""
    marks = {(row["topic"], row["partition"]): row["next"] for row in facts.tables["offsets"]}
    ends: Counter[tuple[str, int]] = Counter()
    keys = {row["event_key"] for row in facts.tables["inbox"]}
    buried = {(row["topic"], row["partition"], row["offset"]) for row in facts.tables["dead_letters"]}
    ours = {row["event_id"] for row in facts.tables["journal"] if row["event_id"] is not None}
    for record in facts.records:
        if record.topic not in facts.consumed:
            continue
        ends[record.topic, record.partition] = max(ends[record.topic, record.partition], record.offset + 1)
        received = read(record, facts.cluster)
        if (record.topic, record.partition, record.offset) in buried:
            if received is not None and received.meta.id in ours and received.meta.source == names.OURS:
                yield f"I7: our own event {received.meta.id} ({place(record)}) is a dead letter"
            continue
        if received is None:
            yield f"I7: the bad record {place(record)} is no dead letter"
        elif received.meta.source == names.OURS:
            if received.meta.id not in ours:
                yield f"I7: {place(record)} claims to be ours and is not; it is no dead letter"
        elif names.inbox_key(received.event.tenant_id, received.meta.source, received.meta.id) not in keys:
            yield f"I7: the event {received.meta.id} ({place(record)}) is neither in the inbox nor a dead letter"
    for where, end in ends.items():
        if marks.get(where, 0) != end:
            yield f"I7: the watermark of {where} is {marks.get(where, 0)}, the log ends at {end}"
    for gap in facts.tables["gaps"]:
        if gap["state"] not in ("reread", "no_record"):
            yield f"I7: a gap is {gap['state']}: {gap['topic']}/{gap['partition']} [{gap['first']}, {gap['past']})"


def all_published(facts: Facts) -> Iterator[str]:
    """Every journal entry with a topic is on it at least once, and the outbox is empty."""
    there = {(record.topic, header(record, "ce_id")) for record in facts.records}
    for row in facts.tables["journal"]:
        if row["topic"] and row["event_id"] and (row["topic"], str(row["event_id"])) not in there:
            yield f"I7: {row['topic']} {row['event_id']} (entry {row['seq']} of {row['tenant_id']}) was never published"
    for row in facts.tables["dead_letters"]:
        if ("dead.letters", str(row["id"])) not in there:
            yield f"I7: the dead letter {row['id']} is not on its topic"
    for row in facts.tables["outbox"]:
        yield f"I7: outbox row {row['id']} ({row['topic']}) of {row['tenant_id']} is left behind"


def readers_see_the_journal(facts: Facts) -> Iterator[str]:
    """Readers order by sequence: it must be the journal's, and the last state of a run must be its row."""
    journal = {row["event_id"]: row for row in facts.tables["journal"] if row["event_id"] is not None}
    newest: dict[str, Row] = {}
    for record in facts.records:
        if header(record, "ce_source") != names.OURS or record.topic == "dead.letters":
            continue
        sequence = int(header(record, "ce_sequence") or -1)
        if record.topic == "run.state":
            state = json.loads(record.value or b"null")
            if sequence != state["version"]:
                yield f"I3: {place(record)} says sequence {sequence} of version {state['version']}"
            if state["version"] >= newest.get(state["run_id"], {"version": 0})["version"]:
                newest[state["run_id"]] = state
            continue
        row = journal.get(UUID(header(record, "ce_id") or ""))
        if row is None:
            continue  # somebody who says to be us: `every_offset` looks after it
        said = (row["topic"], row["seq"], row["tenant_id"], str(row["run_id"]))
        if said != (record.topic, sequence, (record.key or b"").decode(), header(record, "ce_subject")):
            yield f"I3: {place(record)} is not what entry {row['seq']} of {row['tenant_id']} put out: {said}"
    for run in facts.tables["runs"]:
        state = newest.get(str(run["run_id"]))
        if state is None or (state["version"], state["state"]) != (run["version"], run["state"]):
            seen = state and (state["version"], state["state"])
            yield f"I3: readers of run.state see {seen} of run {run['run_id']}, it is {(run['version'], run['state'])}"


def lost_wakeups(facts: Facts) -> Iterator[str]:
    """Every early completion by a job's own tenant is kept with the job until the run meets it."""
    kept = {row["completion_id"] for row in facts.tables["jobs"]}
    early = {row["event_key"]: row for row in facts.tables["inbox"] if row["fate"] == "early"}
    for record in facts.records:
        received = read(record, facts.cluster) if early else None
        if received is None or received.event.tenant_id is None:
            continue
        row = early.pop(names.inbox_key(received.event.tenant_id, received.meta.source, received.meta.id), None)
        job = facts.jobs.get(getattr(received.event, "job_id", None) or "")
        if row is not None and job is not None and job.tenant_id == row["tenant_id"] and row["event_id"] not in kept:
            yield f"I1: the early completion {row['event_id']} of job {job.job_id} of {job.tenant_id} is kept nowhere"


def decoded(facts: Facts, topic: str) -> Iterable[tuple[Arrived, Received | None]]:
    return ((record, read(record, facts.cluster)) for record in facts.records if record.topic == topic)


def read(record: Arrived, cluster: str) -> Received | None:
    """The event in a record, as the inbox decodes it; None: it is none."""
    try:
        return decode(record.key, record.value, record.headers, Origin(cluster, record.topic, record.partition, record.offset, record.timestamp_ms))
    except Refused:
        return None


def in_order(facts: Facts) -> list[Row]:
    return sorted(facts.tables["journal"], key=lambda row: (row["tenant_id"], row["seq"]))


def as_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def header(record: Arrived, name: str) -> str | None:
    return next((value.decode() for key, value in record.headers if key == name), None)


def place(record: Arrived) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"


RULES = (
    one_run_a_trigger,
    one_effect_a_round,
    rows_follow_the_journal,
    everything_ends,
    one_at_a_time,
    nobody_elses,
    every_offset,
    all_published,
    readers_see_the_journal,
    lost_wakeups,
)
