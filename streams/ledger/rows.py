"""What the reader gives: one frozen row a question, the same for CLI, API and pages; its fields are the JSON that scripts rely on."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from streams.schedule import Rule

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A run at a glance; `outcome` is null until it is over."""

    run_id: UUID
    tenant_id: str
    pipeline: str
    state: str
    stage: str | None
    requested_at: datetime
    finished_at: datetime | None
    outcome: str | None
    reason: str | None
    code: str | None
    causes: int
    warnings: int
    started_at: datetime | None
    pipeline_version: str
    version: int
    """The tenant's journal number of the run's last change."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A pipeline at a glance."""

    paused: bool
    """For every tenant; a tenant's own pauses are not meant."""
    next_due: datetime | None
    """Of its schedules that are not paused."""
    last_run: UUID | None
    """Of those that ended."""
    last_tenant: str | None
    last_state: str | None
    last_ended: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a run, with where its time went."""

    stage: str
    state: str
    round: int
    attempt: int
    takeovers: int
    ready_at: datetime
    started_at: datetime | None
    waiting_at: datetime | None
    finished_at: datetime | None
    due_at: datetime
    deadline: datetime | None
    queued: float | None
    """Seconds from ready to started."""
    seconds: float | None
    """Seconds since it started, its waiting included; final once it is finished."""
    waited: float | None
    """Seconds of these in which something remote worked on it."""
    waiting_for: str | None
    code: str | None
    error: str | None
    worker_id: UUID | None
    slot: int | None
    job_id: str | None
    input_type: str
    input: Json
    output_type: str | None
    output: Json | None


@dataclass(frozen=True, slots=True)
class Cause:
    """A request of a run."""

    event_id: UUID
    at: datetime
    request: Json


@dataclass(frozen=True, slots=True)
class Effect:
    """A command that a neighbour answered."""

    key: str
    stage: str | None
    round: int | None
    command: str
    status: int
    sent_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class RunDetail:
    """All there is to know about a run, but its events."""

    run: Run
    request: Json
    steps: list[Step]
    causes: list[Cause]
    effects: list[Effect]


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry of a run's journal (it has a `seq`), or a foreign event that named the run (`kind` is its fate, `code` why it was set aside)."""

    at: datetime
    seq: int | None
    kind: str
    topic: str | None
    event_id: UUID | None
    causation: UUID | None
    partition: int | None
    offset: int | None
    code: str | None
    data: Json | None


@dataclass(frozen=True, slots=True)
class Tenant:
    tenant_id: str
    name: str | None
    status: str
    owner: str | None
    created_at: datetime
    last_run: UUID | None
    last_state: str | None
    last_requested_at: datetime | None
    last_finished_at: datetime | None
    live_version: int | None
    live_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    number: int
    state: str
    run_id: UUID | None
    round: int
    model_path: str
    index_path: str
    instead_of: int | None
    reason: str | None
    created_at: datetime
    live_at: datetime | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: UUID
    at: datetime
    topic: str
    partition: int
    offset: int
    tenant_id: str | None
    code: str
    sentence: str
    state: str
    size: int
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A dead letter with its bytes as they came (the value up to 1 MiB) and its headers, values in base64."""

    letter: DeadLetter
    key: bytes
    value: bytes
    sha256: bytes
    headers: list[tuple[str, str]]
    cluster: str
    timestamp_ms: int

    @property
    def cut(self) -> bool:
        return len(self.value) < self.letter.size


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    slot: int
    worker_id: UUID
    host: str
    pid: int
    started_at: datetime
    stopped_at: datetime | None
    alive: bool
    lease: float | None
    """Seconds that its lease still runs."""
    steps: int
    """Steps it has in hand."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets [first, past) of a partition that nobody read."""

    topic: str
    partition: int
    first: int
    past: int
    state: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Backlog:
    outbox: int
    outbox_age: float | None
    unpublishable: int
    dead_letters: int
    gaps: int
    steps_due: int
    incidents: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Index folders that nothing names: what was deleted so far, and what the last pass saw and left."""

    ended_at: datetime | None
    folders: int
    bytes: int
    waiting: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a pipeline is asked to run, for one tenant or (None) for all that have no schedule of their own."""

    schedule_id: UUID
    name: str
    pipeline: str
    tenant_id: str | None
    cron: str
    zone: str
    jitter: timedelta
    missed: str
    catch_up: timedelta
    overlap: str
    starts_at: datetime | None
    ends_at: datetime | None
    paused: bool
    request: Json
    next_due: datetime | None
    revision: int
    changed_by: str
    changed_at: datetime
    last_due: datetime | None

    @property
    def rule(self) -> Rule:
        return Rule(self.cron, self.zone, self.missed, self.catch_up, self.starts_at, self.ends_at)


@dataclass(frozen=True, slots=True)
class Slot:
    """What became of one due time for one tenant."""

    due: datetime
    tenant_id: str
    fire_at: datetime
    state: str
    reason: str | None
    run_id: UUID | None
    fired_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    revision: int
    what: str
    changed_by: str
    changed_at: datetime
    rule: Json


@dataclass(frozen=True, slots=True)
class Backfill:
    """Past due times of a schedule that are made up for, and how far that is: of `slots` so many are planned, open, and over."""

    backfill_id: UUID
    schedule: str
    pipeline: str
    first_day: date
    last_day: date
    chosen: Json
    at_once: int
    state: str
    changed_by: str
    made_at: datetime
    changed_at: datetime
    slots: int
    planned: int
    open: int
    succeeded: int
    failed: int
    skipped: int

    @property
    def percent(self) -> float:
        """How much of it is over."""
        return round(100 * (self.slots - self.planned - self.open) / self.slots, 1) if self.slots else 100.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A pipeline, a tenant, or a pipeline of a tenant that begins nothing; over once it has `ended_at`."""

    pipeline: str | None
    tenant_id: str | None
    reason: str
    paused_by: str
    since: datetime
    ended_by: str | None
    end_reason: str | None
    ended_at: datetime | None
