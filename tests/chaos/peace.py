"""A snapshot in which every promise is kept: one run of one tenant, told by all who have to tell of it. The checker's own tests spoil it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from schemas.cloudevents import encode
from schemas.context import NAMESPACE, Meta, to_headers
from schemas.event import Event
from schemas.training import (
    CacheWarmed,
    IndexBuilt,
    IndexStarted,
    ModelDeployed,
    RunAccepted,
    RunFinished,
    TrainingCompleted,
    TrainingRequested,
    TrainingStarted,
    TrainingValidated,
)
from streams.fold import fold
from streams.folded import Entry
from streams.names import OURS, event_id, inbox_key, run_id
from tests.chaos.gather import COMMANDS, INDEX_COMMAND
from tests.chaos.snapshot import Artefact, Record, Row, Snapshot

TENANT = "acme"
AT = datetime(2026, 1, 1, tzinfo=UTC)
CAUSE, DONE, BUILT = (uuid5(NAMESPACE, name) for name in ("a request", "a completion", "an index"))
RUN = run_id("training", TENANT, CAUSE)
MODEL, INDEX, SHA = f"models/{TENANT}/{RUN}/1/m", f"indices/{TENANT}/{RUN}/1/i", "0" * 64
FOREIGN_SOURCE = "somebody"


def peace() -> Snapshot:
    """The clean snapshot; every call makes a new one."""
    scribe = Scribe()
    requested = TrainingRequested(tenant_id=TENANT)
    scribe.foreign(requested, CAUSE)
    first = {"stage": "validate", "limit": None, "type": TrainingRequested.topic}
    accepted = RunAccepted(tenant_id=TENANT, run_id=RUN, pipeline="training", pipeline_version="1", causes=[CAUSE])
    about = {"request": requested.dump(), "cause": str(CAUSE), "first": first, "pending": False}
    scribe.own("accepted", accepted, "accept", {**accepted.dump(), **about}, causation=CAUSE)
    validated = TrainingValidated(tenant_id=TENANT, run_id=RUN, bucket="b", prefix="p/", files=1, bytes=100, fingerprint="f")
    scribe.done("validate", validated, "train")
    started = TrainingStarted(tenant_id=TENANT, run_id=RUN, job_id="job-1", deadline=AT + timedelta(hours=6))
    scribe.waits("train", started)
    completed = TrainingCompleted(tenant_id=TENANT, job_id="job-1", status="completed", model_path=MODEL)
    scribe.foreign(completed, DONE)
    scribe.completed("train", completed, DONE, "index")
    building = IndexStarted(tenant_id=TENANT, run_id=RUN, job_id="job-2", deadline=AT + timedelta(hours=6), model_path=MODEL)
    scribe.waits("index", building)
    built = IndexBuilt(tenant_id=TENANT, index_path=INDEX, model_path=MODEL, vectors=9, dim=8, kind="Flat", sha256=SHA, job_id="job-2")
    scribe.foreign(built, BUILT)
    scribe.completed("index", built, BUILT, "deploy")
    scribe.done("deploy", ModelDeployed(tenant_id=TENANT, run_id=RUN, version=1), "warm")
    scribe.done("warm", CacheWarmed(tenant_id=TENANT, run_id=RUN, items=3, version=1), None)
    finished = RunFinished(tenant_id=TENANT, run_id=RUN, pipeline="training", outcome="succeeded")
    scribe.own("finished", finished, "warm", {**finished.dump(), "code": None, "reason": None})
    return scribe.snapshot()


class Scribe:
    """Writes a run down in the journal and on the topics as the runtime would."""

    def __init__(self) -> None:
        self.journal: list[Row] = []
        self.records: dict[str, list[Record]] = {}
        self.inbox: list[Row] = []

    def foreign(self, event: Event, at: UUID) -> None:
        """A fact that somebody else published, and its row in the inbox."""
        record = self.put(event, Meta(id=at, type=event.topic, source=FOREIGN_SOURCE, time=AT))
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        row = {"event_key": inbox_key(TENANT, FOREIGN_SOURCE, at), "tenant_id": TENANT, "event_id": at, "run_id": RUN, "fate": "matched", "at": AT}
        self.inbox.append({**row, **place})

    def own(self, kind: str, event: Event, stage: str, data: Row, causation: UUID | None = None) -> UUID:
        """An event of ours: an entry in the journal, and its record."""
        said = event_id(RUN, stage, 1, event.topic)
        self.note(kind, data, said, event.topic, causation)
        self.put(event, Meta(id=said, type=event.topic, source=OURS, time=AT, sequence=len(self.journal)))
        return said

    def done(self, stage: str, event: Event, following: str | None) -> None:
        said = event_id(RUN, stage, 1, event.topic)
        self.own("step", event, stage, _passed(stage, event.dump(), event.topic, said, following))

    def waits(self, stage: str, event: Any) -> None:
        data = {**_step(stage, "waiting"), "job": event.dump(), "deadline": event.deadline.isoformat()}
        self.own("step", event, stage, data)

    def completed(self, stage: str, event: Event, at: UUID, following: str) -> None:
        self.note("step", _passed(stage, {**event.dump(), "run_id": str(RUN)}, event.topic, at, following))

    def note(self, kind: str, data: Row, said: UUID | None = None, topic: str | None = None, causation: UUID | None = None) -> None:
        seq = len(self.journal) + 1
        place = {"tenant_id": TENANT, "seq": seq, "at": AT, "run_id": RUN, "kind": kind}
        self.journal.append({**place, "event_id": said, "topic": topic, "causation": causation, "data": data})

    def put(self, event: Event, meta: Meta) -> Record:
        key, value, headers = encode(event, meta)
        log = self.records.setdefault(event.topic, [])
        log.append(Record(event.topic, 0, len(log), 0, key, value, tuple(headers)))
        return log[-1]

    def snapshot(self) -> Snapshot:
        folded = fold(map(Entry.load, self.journal))
        run = folded.runs[RUN]
        state = {"tenant_id": TENANT, "run_id": str(RUN), "state": run.state, "version": run.version}
        headers = to_headers(Meta(id=CAUSE, type="run.state", source=OURS, time=AT), RUN, TENANT)
        self.records["run.state"] = [Record("run.state", 0, 0, 0, TENANT.encode(), json.dumps(state).encode(), tuple(headers))]
        ends = {(topic, 0): len(log) for topic, log in self.records.items()}
        held = {"worker": None, "due_at": AT}
        return Snapshot(
            cluster="c",
            now=AT + timedelta(minutes=1),
            grace=timedelta(0),
            drained=True,
            commands=COMMANDS | INDEX_COMMAND,
            read=frozenset(self.records) - {"run.state", "run.accepted", "run.finished", "cache.warmed"},
            sent=[(TrainingRequested.topic, 0, 0)],
            records=self.records,
            ends=ends,
            tables={
                "tenant_heads": [{"tenant_id": TENANT, "seq": len(self.journal)}],
                "pipeline_heads": [{"tenant_id": TENANT, "pipeline": "training", "active_run": None, "pending_run": None}],
                "journal": self.journal,
                "runs": [vars(run).copy()],
                "steps": [{**vars(step), **held} for step in folded.steps.values()],
                "causes": [{"run_id": RUN, "event_id": CAUSE, "at": AT}],
                "inbox": self.inbox,
                "offsets": [{"topic": topic, "partition": n, "next": end} for (topic, n), end in ends.items()],
                "versions": [_version()],
            },
            accepted=[_accepted(stage, path) for stage, path in (COMMANDS | INDEX_COMMAND).items()],
            serving={TENANT: 1},
            data={TENANT: (1, 100)},
            artefacts={INDEX: Artefact(TENANT, {"index.faiss": SHA}, {"index.faiss": SHA})},
        )


def _step(stage: str, state: str) -> Row:
    return {"stage": stage, "state": state, "round": 1, "attempt": 1, "started_at": AT.isoformat()}


def _passed(stage: str, output: Row, kind: str, event: UUID, following: str | None) -> Row:
    data: Row = {**_step(stage, "done"), "output": output, "output_type": kind, "event": str(event)}
    return data if following is None else {**data, "next": {"stage": following, "limit": None}}


def _version() -> Row:
    paths = {"model_path": MODEL, "index_path": INDEX}
    return {"tenant_id": TENANT, "number": 1, "run_id": RUN, "round": 1, "state": "live", "instead_of": None, **paths}


def _accepted(stage: str, path: str) -> Row:
    return {"idempotency_key": f"{RUN}:{stage}:1", "method": "POST", "path": path, "tenant_id": TENANT, "at": AT.isoformat(), "status": 200}
