"""What the ledger says of one run: its journal's words on every stage and round, its events, and the commands that were answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from schemas.states import RunState

_RUN = "select run_id, tenant_id, state, requested_at from runs where run_id = $1"
# what was told of a quality run's findings are words about the tenant, and name the run within
_JOURNAL = """
select seq, at, kind, event_id, topic, data from journal
where run_id = $1::uuid or (kind = 'incident' and data ->> 'run_id' = ($1::uuid)::text) order by seq
"""
_EFFECTS = "select key, stage, round, command, status, reply ->> 'job_id' as job_id from effects where run_id = $1 order by id"
_UNSENT = """
select event_id, null as error from outbox where run_id = $1 and topic is not null
union all select event_id, error from unpublishable where run_id = $1 and topic is not null
"""
_REFILLED = "select data from journal where tenant_id = $1 and kind = 'refilled' order by seq"
NEXT_ROUND, ENDED = "next round", "ended by the refill"
OVER = frozenset({"done", "skipped", "failed", "cancelled", NEXT_ROUND, ENDED})


@dataclass
class Refilled:
    """What entries that stand for lost ones say of a tenant (`streams/refill/`)."""

    undone: set[UUID] = field(default_factory=set)
    """Events that went out and whose moves were made again."""
    ended: set[UUID] = field(default_factory=set)
    """Runs of which it was concluded that they are over."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """First and last number of entries that no topic has."""

    def lost(self, seq: int | None) -> bool:
        """Whether the entry of this number is in a hole."""
        return seq is not None and any(first <= seq <= last for first, last in self.holes)


@dataclass(frozen=True, slots=True)
class Said:
    """A journalled event with a topic."""

    seq: int
    at: datetime
    event_id: UUID
    topic: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A command and the answer that a worker kept."""

    key: str
    stage: str | None
    round: int | None
    command: str
    status: int
    job_id: str | None

    @property
    def accepted(self) -> bool:
        return self.status < 300


@dataclass
class Record:
    """One run at one moment."""

    run_id: UUID
    tenant_id: str
    state: RunState
    requested_at: datetime
    events: list[Said] = field(default_factory=list)
    words: dict[tuple[str, int], str] = field(default_factory=dict)
    """(stage, round) -> the journal's last word on it."""
    jobs: set[str] = field(default_factory=set)
    answered: list[Answered] = field(default_factory=list)
    unsent: dict[UUID, str | None] = field(default_factory=dict)
    """Events that are not on Kafka yet; with the broker's word if it refuses them for good."""
    refilled: Refilled = field(default_factory=Refilled)

    @property
    def over(self) -> bool:
        return self.state.terminal

    def step_of(self, key: str) -> tuple[str, int] | None:
        """Stage and round of one of this run's keys, if the journal knows them: `{run}:{stage}:{round}`, and what a stage appends."""
        run, _, rest = key.partition(":")
        stage, _, rest = rest.partition(":")
        number = rest.partition(":")[0]
        if run != str(self.run_id) or not number.isdecimal() or (stage, int(number)) not in self.words:
            return None
        return stage, int(number)

    def owns(self, key: str) -> bool:
        """Whether a neighbour that has this key did something for this run."""
        return key.startswith(f"{self.run_id}:") or (key.startswith("cancel:") and key.removeprefix("cancel:") in self.jobs)


async def refilled(raw: "asyncpg.Connection[Any]", tenant_id: str) -> Refilled:
    """What is known to be lost of a tenant's journal."""
    found = Refilled()
    for row in await raw.fetch(_REFILLED, tenant_id):
        data = row["data"]
        found.undone |= {UUID(data["undone"])} if data.get("undone") else set()
        found.ended |= {UUID(each["run_id"]) for each in data.get("ended", ())}
        found.holes += [(first, last) for first, last in data.get("missing", ())]
    return found


async def load(raw: "asyncpg.Connection[Any]", run_id: UUID, lost: Refilled | None = None) -> Record | None:
    """The run, or None if there is none. `lost`: its tenant's, if it was read before."""
    row = await raw.fetchrow(_RUN, run_id)
    if row is None:
        return None
    record = Record(row["run_id"], row["tenant_id"], RunState(row["state"]), row["requested_at"])
    record.unsent = {each["event_id"]: each["error"] for each in await raw.fetch(_UNSENT, run_id)}
    record.answered = [Answered(**each) for each in await raw.fetch(_EFFECTS, run_id)]
    record.refilled = lost or await refilled(raw, record.tenant_id)
    read_journal(record, await raw.fetch(_JOURNAL, run_id))
    return record


def read_journal(record: Record, rows: Sequence[Any]) -> None:
    """Events, and the last word on each stage and round. Whether the words follow from each other is `rebuild --check`'s business."""
    rounds: dict[str, int] = {}

    def begin(part: dict[str, Any] | None) -> None:
        if part and isinstance(stage := part.get("stage"), str):
            rounds[stage] = rounds.get(stage, 0) + 1
            record.words[stage, rounds[stage]] = "ready"

    for row in rows:
        data = row["data"]
        if row["topic"] and row["event_id"]:
            record.events.append(Said(row["seq"], row["at"], row["event_id"], row["topic"]))
        if row["kind"] == "accepted" and not data.get("pending"):
            begin(data.get("first"))
        elif row["kind"] in ("started", "reopened"):
            begin(data)
        elif row["kind"] == "step":
            stage, round = data["stage"], data["round"]
            for earlier in range(rounds.get(stage, round), round):
                record.words[stage, earlier] = NEXT_ROUND
            record.words[stage, round] = data["state"]
            rounds[stage] = round
            if job := (data.get("job") or {}).get("job_id"):
                record.jobs.add(job)
            begin(data.get("next"))
    if record.run_id in record.refilled.ended:
        record.words |= {step: ENDED for step, word in record.words.items() if word not in OVER}
