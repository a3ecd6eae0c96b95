"""Valid journals, move by move, as the ledger's SQL would write them: what the fold's tests are fed with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from streams.folded import Entry

STAGES = ("validate", "train", "index", "warm")
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Told:
    """What the model knows of a run: enough to know which moves are open."""

    run_id: UUID
    pipeline: str
    state: str = "pending"
    stage: int = 0
    step: str = "ready"  # or waiting, failed_job
    round: int = 1
    attempt: int = 1
    warnings: int = 0
    causes: int = 1
    rounds: dict[int, int] = field(default_factory=dict)


@dataclass
class Journal:
    """One tenant's journal in the making. Each method is a move of the ledger; call only those that are open."""

    tenant: str = "acme"
    entries: list[Entry] = field(default_factory=list)
    runs: dict[UUID, Told] = field(default_factory=dict)
    active: dict[str, UUID] = field(default_factory=dict)
    pending: dict[str, UUID] = field(default_factory=dict)

    def note(self, run: UUID | None, kind: str, data: dict[str, Any], topic: str | None = None, causation: UUID | None = None) -> UUID:
        seq = len(self.entries) + 1
        event = uuid5(NAMESPACE_OID, f"{self.tenant} {seq}")
        at = BEGIN + timedelta(seconds=seq)
        self.entries.append(Entry(self.tenant, seq, at, run, kind, event if topic else None, topic, causation, data))
        return event

    def request(self, pipeline: str = "training", *, publish: bool = False) -> Told:
        """A request is accepted, or merges into the follow-up."""
        cause = uuid5(NAMESPACE_OID, f"cause {self.tenant} {len(self.entries)}")
        run_id = self.pending.get(pipeline) or uuid5(cause, "run")
        data = {"tenant_id": self.tenant, "number": len(self.entries)}
        if publish:
            cause = self.note(run_id, "requested", data, "training.requested")
        if pipeline in self.pending:
            self.note(run_id, "merged", {"cause": str(cause), "request": data}, causation=cause)
            run = self.runs[run_id]
            run.causes += 1
            return run
        waits = pipeline in self.active
        told = {"pipeline": pipeline, "pipeline_version": "1", "request": data, "cause": str(cause), "first": self.first, "pending": waits}
        self.note(run_id, "accepted", told | {"traceparent": None}, "run.accepted", cause)
        run = self.runs[run_id] = Told(run_id, pipeline)
        if waits:
            self.pending[pipeline] = run_id
        else:
            self.active[pipeline] = run_id
            self._begin(run, 0)
        return run

    first = {"stage": STAGES[0], "type": "training.requested", "limit": None}  # noqa: RUF012  # a constant of the model

    def _begin(self, run: Told, stage: int) -> None:
        run.state, run.stage, run.step, run.attempt = "running", stage, "ready", 1
        run.round = run.rounds[stage] = run.rounds.get(stage, 0) + 1

    def _step(self, run: Told, state: str, more: dict[str, Any], topic: str | None = None) -> None:
        run.rounds[run.stage] = run.round
        facts = {"stage": STAGES[run.stage], "state": state, "round": run.round, "attempt": run.attempt, "started_at": BEGIN.isoformat()}
        self.note(run.run_id, "step", facts | more, topic)

    def wait(self, run: Told) -> None:
        run.step = "waiting"
        self._step(run, "waiting", {"job": {"job_id": f"j{len(self.entries)}", "x": None}, "deadline": BEGIN.isoformat()}, "training.started")

    def job_fails(self, run: Told) -> None:
        run.step = "failed_job"
        self._step(run, "ready", {"output": {"status": "failed"}, "output_type": "training.completed"})

    def retry(self, run: Told, *, next_round: bool = False) -> None:
        run.step, run.attempt, run.round = "ready", run.attempt + 1, run.round + next_round
        self._step(run, "ready", {"code": "slow", "error": "it was slow"})

    def done(self, run: Told, *, skipped: bool = False) -> None:
        """The step is over; the next one begins or the run ends."""
        following = STAGES[run.stage + 1] if run.stage + 1 < len(STAGES) and run.state == "running" else None
        more: dict[str, Any] = {"event": str(uuid5(run.run_id, f"{run.stage}:{run.round}"))}
        if skipped:
            run.warnings += 1
            more |= {"code": "cache_full", "error": "no room"}
        else:
            more |= {"output": {"stage": run.stage, "run_id": str(run.run_id)}, "output_type": f"{STAGES[run.stage]}.done"}
        if following:
            more["next"] = {"stage": following, "limit": "ml_engine"} if following == "train" else {"stage": following}
        last = run.stage + 1 == len(STAGES)
        self._step(run, "skipped" if skipped else "done", more)
        if following:
            self._begin(run, run.stage + 1)
        elif last:
            self._finish(run, "succeeded_with_warnings" if run.warnings else "succeeded")
        else:
            self._finish(run, "cancelled")

    def fail(self, run: Told, outcome: str = "failed") -> None:
        outcome = "cancelled" if run.state == "cancelling" else outcome
        self._step(run, "cancelled" if outcome == "cancelled" else "failed", {"code": "no_data", "error": "there is none"})
        self._finish(run, outcome)

    def cancel(self, run: Told) -> None:
        """A pending run ends at once, a running one when its step reports."""
        if run.state == "pending":
            del self.pending[run.pipeline]
            self._end(run, "cancelled")
        else:
            run.state = "cancelling"
            self.note(run.run_id, "cancel", {"by": "somebody"})

    def reopen(self, run: Told, stage: int) -> None:
        self.active[run.pipeline] = run.run_id
        void = [STAGES[later] for later in sorted(run.rounds) if later > stage]
        facts = {"stage": STAGES[stage], "round": run.rounds[stage] + 1, "by": "somebody", "limit": None, "void": void}
        self.note(run.run_id, "reopened", facts)
        run.warnings = 0
        self._begin(run, stage)

    def tenant_note(self) -> None:
        self.note(None, "tenant_suspended", {"by": "somebody"})

    def _finish(self, run: Told, outcome: str) -> None:
        self._end(run, outcome)
        del self.active[run.pipeline]
        if waiting := self.pending.pop(run.pipeline, None):
            self.note(waiting, "started", self.first)
            self.active[run.pipeline] = waiting
            self._begin(self.runs[waiting], 0)

    def _end(self, run: Told, outcome: str) -> None:
        run.state = outcome
        self.note(run.run_id, "finished", {"outcome": outcome, "code": outcome}, "run.finished")

    def in_state(self, *states: str) -> list[Told]:
        return [run for run in self.runs.values() if run.state in states]


def open_moves(journal: Journal) -> list[Callable[[], object]]:
    """Every move that the ledger would let happen now."""
    moves: list[Callable[[], object]] = [journal.tenant_note]
    moves += [partial(journal.request, pipeline, publish=publish) for pipeline in ("training", "quality") for publish in (False, True)]
    for run in journal.runs.values():
        if run.state == "pending":
            moves.append(partial(journal.cancel, run))
        elif run.state in ("running", "cancelling"):
            moves += _step_moves(journal, run)
        elif run.rounds and run.pipeline not in journal.active and run.state != "superseded":
            moves += [partial(journal.reopen, run, stage) for stage in run.rounds]
    return moves


def _step_moves(journal: Journal, run: Told) -> list[Callable[[], object]]:
    moves: list[Callable[[], object]] = [partial(journal.fail, run, outcome) for outcome in ("failed", "timed_out", "superseded")]
    if run.state == "running":
        moves += [partial(journal.cancel, run), partial(journal.retry, run), partial(journal.retry, run, next_round=True)]
    if run.step != "failed_job":
        moves += [partial(journal.done, run)] * 4
        if run.stage + 1 == len(STAGES):
            moves.append(partial(journal.done, run, skipped=True))
    if run.step == "waiting":
        moves.append(partial(journal.job_fails, run))
    elif run.step == "ready":
        moves.append(partial(journal.wait, run))
    return moves


def journal_of(choices: Iterable[int]) -> Journal:
    """The journal that these choices among the open moves make."""
    journal = Journal()
    for choice in choices:
        moves = open_moves(journal)
        moves[choice % len(moves)]()
    return journal


def renumbered(entries: list[Entry]) -> list[Entry]:
    """As if somebody had covered the traces."""
    return [replace(entry, seq=number) for number, entry in enumerate(entries, 1)]
