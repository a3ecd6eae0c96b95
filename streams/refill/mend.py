"""A tenant's journal as Kafka has it, with holes, becomes one that folds: what fits nowhere is set aside, what is missing is said. Pure.

Nothing is guessed about steps. A run whose way on is missing stands where the last entry that fits left it, and goes on from there under the
same idempotency keys, so what it did in the meantime is found done. Only that a run is over is concluded: the next one could not have begun else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from schemas.states import RunState, StepState
from streams import names
from streams.fold import REFILLED, follow
from streams.folded import Data, Entry, FoldError, Head, State

First = Callable[[str], Data | None]
"""How a run of the named pipeline begins; None: there is no such pipeline any more."""
_OUTCOMES = {StepState.DONE: RunState.SUCCEEDED, StepState.SKIPPED: RunState.SUCCEEDED, StepState.CANCELLED: RunState.CANCELLED}


@dataclass
class Mended:
    """What becomes of one tenant's journal."""

    tenant_id: str
    state: State
    entries: list[Entry] = field(default_factory=list)
    """To be written behind what the ledger has."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """First and last number of each hole."""
    set_aside: list[int] = field(default_factory=list)
    """Numbers of entries that are there and follow from nothing."""
    told: list[UUID] = field(default_factory=list)
    """Runs whose state has to be told once more, because it was concluded here."""


def mend(tenant_id: str, base: State, found: Iterable[Entry], first: First, *, at: datetime, note: Data, lost: Mapping[UUID, str]) -> Mended:
    """`base`: what the ledger's own journal comes to; `found`: entries behind it, by number; `note`: what else the closing entry says.

    `lost`: events of ours that went out, with their topics, and whose entries did not: their moves are made again, the events stay known as ours.
    """
    mended = Mended(tenant_id, base.copy())
    mended.state.tenant_id = tenant_id
    for entry in found:
        _take(mended, entry)
    if mended.state.owed and mended.state.owed.event is not None:  # a request without its run: it is accepted anew
        _undo_last(mended)
    if not mended.entries:
        return mended
    _complete(mended, first, at)
    already = {entry.data.get("undone") for entry in mended.entries} | {str(entry.event_id) for entry in mended.entries if entry.event_id}
    for event, topic in lost.items():
        if str(event) not in already:
            _add(mended, _refilled(mended, mended.state.seq + 1, at, {"undone": event, "entry": {"topic": topic}}))
    holes = {"missing": mended.missing, "set_aside": mended.set_aside, "why": "the ledger was lost or set back; refilled from the topics"}
    _add(mended, _refilled(mended, mended.state.seq + 1, at, holes | note))
    return mended


def _take(mended: Mended, entry: Entry) -> None:
    """The entry as it is, if need be behind one that stands for a hole; else one that sets it aside."""
    begin = mended.state.seq + 1
    if entry.seq > begin:
        mended.missing.append((begin, entry.seq - 1))
    refusal: FoldError | None = None
    due = [_owed_end(mended.state)] if _owes_an_end(mended.state) else []
    for ended in (due, due + _must_be_over(mended.state, entry)):
        hole = [_refilled(mended, entry.seq - 1, entry.at, {"ended": ended})] if entry.seq > begin else []
        if len(ended) > len(due) and not hole:
            break  # nothing is missing before it: it contradicts what is there
        try:
            state = _followed(mended.state, [*hole, entry])
        except FoldError as error:
            refusal = error
        else:
            mended.state = state
            mended.entries += [*hole, entry]
            mended.told += [UUID(each["run_id"]) for each in ended] if hole else []
            return
    mended.set_aside.append(entry.seq)
    ended = due + _its_end(mended.state, entry)
    _add(mended, _refilled(mended, entry.seq, entry.at, {"ended": ended, "refused": str(refusal)} | _kept(entry)))
    mended.told += [UUID(each["run_id"]) for each in ended]


def _must_be_over(state: State, entry: Entry) -> list[Data]:
    """Runs that cannot be open any more, since this entry begins the next one."""
    if entry.kind not in ("accepted", "started") or entry.run_id is None:
        return []
    run = state.runs.get(entry.run_id)
    head = state.heads.get(run.pipeline if run else str(entry.data.get("pipeline")), Head())
    over = [head.active] if entry.kind == "started" else [] if entry.data.get("pending") else [head.active, head.pending]
    due = state.owed.run_id if _owes_an_end(state) and state.owed else None
    return [_ended(each) for each in over if each is not None and each not in (entry.run_id, due)]


def _owes_an_end(state: State) -> bool:
    return state.owed is not None and "finished" in state.owed.kinds


def _owed_end(state: State) -> Data:
    """How the run ends whose last step is over."""
    assert state.owed is not None
    run = state.runs[state.owed.run_id]
    step = state.steps[run.run_id, str(run.stage)]
    outcome = _OUTCOMES.get(step.state, RunState.FAILED)
    if run.state is RunState.CANCELLING:
        outcome = RunState.CANCELLED
    elif outcome is RunState.SUCCEEDED and run.warnings:
        outcome = RunState.SUCCEEDED_WITH_WARNINGS
    return _ended(run.run_id, outcome, step.code, step.error)


def _its_end(state: State, entry: Entry) -> list[Data]:
    """That a run is over is believed, wherever it had been."""
    run = state.runs.get(entry.run_id) if entry.run_id else None
    if entry.kind != "finished" or run is None or run.state.terminal:
        return []
    data = entry.data
    return [_ended(run.run_id, RunState(data["outcome"]), data.get("code"), data.get("reason"))]


def _ended(run_id: UUID, outcome: RunState = RunState.FAILED, code: str | None = "end_unknown", reason: str | None = None) -> Data:
    reason = reason or ("how it ended is on no topic; the next run had begun" if code == "end_unknown" else None)
    return {"run_id": str(run_id), "outcome": outcome.value, "code": code, "reason": reason}


def _undo_last(mended: Mended) -> None:
    entry = mended.entries.pop()
    mended.state.seq = entry.seq - 1
    mended.state.owed = None
    mended.set_aside.append(entry.seq)
    _add(mended, _refilled(mended, entry.seq, entry.at, _kept(entry)))


def _complete(mended: Mended, first: First, at: datetime) -> None:
    """What the last transaction must have done besides, and follow-ups whose time has come."""
    state = mended.state
    if state.owed is not None and _owes_an_end(state):
        run = state.runs[state.owed.run_id]
        step = state.steps[run.run_id, str(run.stage)]
        said = {"tenant_id": run.tenant_id, "pipeline": run.pipeline, "started_at": run.started_at, "finished_at": at} | _owed_end(state)
        data = {name: value for name, value in said.items() if value is not None}
        event = names.finish_event(run.run_id, step.stage, step.round)
        _add(mended, _entry(mended, state.seq + 1, at, "finished", data, run_id=run.run_id, event_id=event, topic="run.finished"))
        mended.told.append(run.run_id)
    for pipeline, head in list(mended.state.heads.items()):
        begin = first(pipeline)
        if head.active is None and head.pending is not None and begin is not None:
            _add(mended, _entry(mended, mended.state.seq + 1, at, "started", begin, run_id=head.pending))
            mended.told.append(head.pending)


def _followed(state: State, entries: Sequence[Entry]) -> State:
    state = state.copy()  # after a refusal it would be of no use
    for entry in entries:
        follow(state, entry)
    return state


def _add(mended: Mended, entry: Entry) -> None:
    mended.state = _followed(mended.state, [entry])
    mended.entries.append(entry)


def _refilled(mended: Mended, seq: int, at: datetime, data: Data) -> Entry:
    return _entry(mended, seq, at, REFILLED, {"first": mended.state.seq + 1} | {name: value for name, value in data.items() if value})


def _kept(entry: Entry) -> Data:
    """An entry that is set aside stays readable, and its event stays known as ours."""
    return {"undone": entry.event_id, "entry": {"kind": entry.kind, "run_id": entry.run_id, "topic": entry.topic, "data": entry.data}}


def _entry(mended: Mended, seq: int, at: datetime, kind: str, data: Data, **more: Any) -> Entry:
    plain = orjson.loads(orjson.dumps(data))
    return Entry(mended.tenant_id, seq, at, more.get("run_id"), kind, more.get("event_id"), more.get("topic"), None, plain)
