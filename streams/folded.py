"""What the fold reads and what it gives: journal entries, and a tenant's state as rows can be compared with it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar
from uuid import UUID

import orjson

from schemas.states import RunState, StepState

Data = dict[str, Any]
T = TypeVar("T")
CLOSED = frozenset({StepState.DONE, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED})


class FoldError(Exception):
    """A journal entry that cannot follow the ones before it: whose, which, a code, and why."""

    def __init__(self, entry: "Entry", code: str, why: str) -> None:
        self.tenant_id, self.seq, self.code, self.why = entry.tenant_id, entry.seq, code, why
        about = f" of run {entry.run_id}" if entry.run_id else ""
        super().__init__(f"{code}: journal entry {entry.seq} of {entry.tenant_id} ({entry.kind}{about}) cannot follow: {why}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the journal; its data is read with its type, or the entry is named as a bad one."""

    tenant_id: str
    seq: int
    at: datetime
    run_id: UUID | None
    kind: str
    event_id: UUID | None
    topic: str | None
    causation: UUID | None
    data: Data

    @classmethod
    def load(cls, row: Mapping[str, Any]) -> "Entry":
        return cls(**{name: row[name] for name in cls.__slots__})

    def text(self, name: str, part: Data | None = None) -> str:
        return self._typed(name, str, self.data if part is None else part)

    def maybe_text(self, name: str, part: Data | None = None) -> str | None:
        part = self.data if part is None else part
        return None if part.get(name) is None else self._typed(name, str, part)

    def texts(self, name: str) -> list[str]:
        return [each for each in self._typed(name, list, self.data) if isinstance(each, str)]

    def number(self, name: str) -> int:
        return self._typed(name, int, self.data)

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, self.data)

    def part(self, name: str) -> Data:
        return self._typed(name, dict, self.data)

    def id(self, name: str) -> UUID:
        return self._read(UUID, name)

    def time(self, name: str) -> datetime:
        return self._read(datetime.fromisoformat, name).astimezone(UTC)

    def maybe_time(self, name: str) -> datetime | None:
        return None if self.data.get(name) is None else self.time(name)

    def state(self, name: str) -> StepState:
        return self._read(StepState, name)

    def run_state(self, name: str) -> RunState:
        return self._read(RunState, name)

    def _typed(self, name: str, kind: type[T], part: Data) -> T:
        value = part.get(name)
        if not isinstance(value, kind):
            raise FoldError(self, "bad_entry", f"its {name} is {value!r:.60}, not {kind.__name__}")
        return value

    def _read(self, read: Callable[[str], T], name: str) -> T:
        text = self.text(name)
        try:
            return read(text)
        except ValueError:
            raise FoldError(self, "bad_entry", f"its {name} is {text!r:.60}") from None


@dataclass(frozen=True)
class Run:
    """A row of `runs`."""

    run_id: UUID
    tenant_id: str
    pipeline: str
    pipeline_version: str
    state: RunState
    stage: str | None
    request: Data
    request_id: UUID
    causes: int
    version: int
    requested_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    warnings: int = 0
    code: str | None = None
    reason: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class Step:
    """A row of `steps`, without what belongs to who works on it and when."""

    run_id: UUID
    stage: str
    tenant_id: str
    pipeline: str
    state: StepState
    round: int
    input: Data
    input_type: str
    input_id: UUID
    ready_at: datetime
    attempt: int = 1
    limit_name: str | None = None
    deadline: datetime | None = None
    job: Data | None = None
    output: Data | None = None
    output_type: str | None = None
    code: str | None = None
    error: str | None = None
    started_at: datetime | None = None
    waiting_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def key(self) -> tuple[UUID, str]:
        return self.run_id, self.stage


@dataclass(frozen=True)
class Head:
    """Which run of a pipeline is active, and which one gathers the requests meanwhile. Whether it is paused is an operator's word, not folded."""

    active: UUID | None = None
    pending: UUID | None = None


@dataclass(frozen=True)
class Owed:
    """What the same transaction must have written next; `event`: the request that it is about."""

    kinds: frozenset[str]
    run_id: UUID
    event: UUID | None = None


@dataclass
class State:
    """Everything folded of one tenant."""

    tenant_id: str = ""
    seq: int = 0
    runs: dict[UUID, Run] = field(default_factory=dict)
    steps: dict[tuple[UUID, str], Step] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    owed: Owed | None = None
    """Not null: the journal stops in the middle of a transaction, which PostgreSQL never shows."""

    def copy(self) -> "State":
        return State(self.tenant_id, self.seq, dict(self.runs), dict(self.steps), dict(self.heads), self.owed)


_RUN = tuple(Run.__dataclass_fields__)
_STEP = tuple(Step.__dataclass_fields__)
_ATTEMPTS_OWN = ("code", "error")
_CLAIMS_OWN = "started_at"


def comparable(row: Mapping[str, Any]) -> Data:
    """What the journal decides of a row of `runs`, `steps` or `pipeline_heads`, or of `vars()` of a folded one.

    Left out is what leases and clocks change between two entries: worker, fence, takeovers, due_at and waiting_for of any step;
    whether a ready step runs, and since when; what the last look or the last outage said about a step that is not over.
    """
    if "pending_run" in row:
        return {"active": _plain(row["active_run"]), "pending": _plain(row["pending_run"])}
    if "round" not in row:
        return {name: _plain(row[name]) for name in _RUN}
    step = {name: _plain(row[name]) for name in _STEP}
    if step["state"] == StepState.RUNNING:
        step["state"] = StepState.READY.value
    if step["state"] not in CLOSED:
        step |= dict.fromkeys(_ATTEMPTS_OWN)
    if step["state"] == StepState.READY:
        step[_CLAIMS_OWN] = None
    return step


def _plain(value: Any) -> Any:
    match value:
        case RunState() | StepState():
            return value.value
        case UUID():
            return str(value)  # the driver's own class is none that JSON knows
        case datetime():
            return value.astimezone(UTC)
    return value


@dataclass
class Comparable:
    """A tenant's state in the form in which rows and fold are compared."""

    seq: int
    runs: dict[UUID, Data]
    steps: dict[tuple[UUID, str], Data]
    heads: dict[str, Data]

    @classmethod
    def of_state(cls, state: State) -> "Comparable":
        return cls(
            state.seq,
            {key: comparable(vars(run)) for key, run in state.runs.items()},
            {key: comparable(vars(step)) for key, step in state.steps.items()},
            {name: comparable({"active_run": head.active, "pending_run": head.pending}) for name, head in state.heads.items() if head != Head()},
        )

    @classmethod
    def of_rows(cls, seq: int, runs: Iterable[Any], steps: Iterable[Any], heads: Iterable[Any]) -> "Comparable":
        found = {row["pipeline"]: comparable(row) for row in heads}
        return cls(
            seq,
            {row["run_id"]: comparable(row) for row in runs},
            {(row["run_id"], row["stage"]): comparable(row) for row in steps},
            {name: head for name, head in found.items() if head["active"] or head["pending"]},
        )

    def hash(self) -> str:
        """sha256 over canonical JSON: equal states have equal hashes, wherever they came from."""
        document = {
            "seq": self.seq,
            "runs": [self.runs[key] for key in sorted(self.runs)],
            "steps": [self.steps[key] for key in sorted(self.steps)],
            "heads": self.heads,
        }
        return sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def state_hash(state: State) -> str:
    """The hash of a folded state."""
    return Comparable.of_state(state).hash()
