"""The fold: a tenant's journal, entry by entry, becomes its runs, steps and pipeline heads. Pure, and tolerant of nothing.

The ledger's SQL writes rows and journal in one transaction; this says the same a second time, from the journal alone. So rows that
somebody changed, and entries that got lost, show (`tidemill rebuild --check`), and rows that are gone come back (`tidemill rebuild`).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from schemas.states import RunState, StepState, may_move
from streams.folded import CLOSED, Entry, FoldError, Head, Owed, Run, State, Step

REFILLED = "refilled"
"""The entry that a refilled journal has in place of entries that no topic had (`streams/refill/`)."""
_ACTIVE = (RunState.RUNNING, RunState.CANCELLING)
_OPEN = (StepState.READY, StepState.WAITING)


def fold(entries: Iterable[Entry], before: State | None = None) -> State:
    """The tenant's state after these entries, the first of which follows `before`; raises `FoldError` at one that cannot follow."""
    state = before.copy() if before else State()
    for entry in entries:
        follow(state, entry)
    return state


def follow(state: State, entry: Entry) -> None:
    """Take one more entry into the state, in place; after a `FoldError` the state is of no use."""
    _check_place(state, entry)
    if not isinstance(entry.data, dict):
        raise FoldError(entry, "bad_entry", "its data is no object")
    owed, state.owed = state.owed, None
    if entry.kind == REFILLED:
        _refilled(state, entry)
    elif entry.run_id is not None:
        if entry.kind not in _MOVES:
            raise FoldError(entry, "unknown_kind", f"this version does not know entries of the kind {entry.kind}; upgrade it")
        if owed is not None and owed.event is not None and entry.causation != owed.event:
            raise FoldError(entry, "wrong_cause", f"the request before it was the event {owed.event}, this names {entry.causation}")
        _MOVES[entry.kind](state, entry, entry.run_id)
    elif entry.kind in _MOVES:
        raise FoldError(entry, "no_run", "it names no run")
    state.tenant_id, state.seq = entry.tenant_id, entry.seq


def _check_place(state: State, entry: Entry) -> None:
    if state.tenant_id and entry.tenant_id != state.tenant_id:
        raise FoldError(entry, "foreign_tenant", f"it stands among the entries of {state.tenant_id}")
    if entry.seq <= state.seq:
        raise FoldError(entry, "out_of_order", f"entry {state.seq} came before it")
    first = entry.number("first") if entry.kind == REFILLED else entry.seq
    if first != state.seq + 1:
        raise FoldError(entry, "gap", f"entries {state.seq + 1} to {first - 1} are missing")
    if state.owed and entry.kind != REFILLED and (entry.kind not in state.owed.kinds or entry.run_id != state.owed.run_id):
        raise FoldError(entry, "entry_missing", f"after entry {state.seq} {' or '.join(sorted(state.owed.kinds))} of run {state.owed.run_id} was due")


def _refilled(state: State, entry: Entry) -> None:
    """It stands for the entries from `first` to itself. Whatever they were: these runs must have ended in them."""
    for ended in entry.data.get("ended", ()):
        run = _run(state, entry, UUID(ended["run_id"]))
        for step in [each for each in state.steps.values() if each.run_id == run.run_id and each.state in _OPEN]:
            state.steps[step.key] = replace(step, state=StepState.CANCELLED, code=ended["code"], finished_at=entry.at)
        head = state.heads[run.pipeline]
        state.heads[run.pipeline] = Head(None if head.active == run.run_id else head.active, None if head.pending == run.run_id else head.pending)
        outcome = RunState(ended["outcome"])
        state.runs[run.run_id] = replace(run, state=outcome, code=ended["code"], reason=ended["reason"], finished_at=entry.at, version=entry.seq)


def _requested(state: State, entry: Entry, run_id: UUID) -> None:
    """The request goes out; the same transaction makes a run of it, or merges it."""
    state.owed = Owed(frozenset({"accepted", "merged"}), run_id, entry.event_id)


def _accepted(state: State, entry: Entry, run_id: UUID) -> None:
    pipeline, pending = entry.text("pipeline"), entry.flag("pending")
    head = state.heads.get(pipeline, Head())
    if run_id in state.runs:
        raise FoldError(entry, "run_exists", "the run was accepted before")
    if head.pending is not None or pending is not (head.active is not None):
        raise FoldError(entry, "wrong_head", f"{_told(head)}, so a new run cannot be {'pending' if pending else 'active'}")
    first = entry.part("first")
    run = Run(
        run_id=run_id,
        tenant_id=entry.tenant_id,
        pipeline=pipeline,
        pipeline_version=entry.text("pipeline_version"),
        state=RunState.PENDING if pending else RunState.RUNNING,
        stage=None if pending else entry.text("stage", first),
        request=entry.part("request"),
        request_id=entry.id("cause"),
        causes=1,
        version=entry.seq,
        requested_at=entry.at,
        started_at=None if pending else entry.at,
        traceparent=entry.maybe_text("traceparent"),
    )
    state.runs[run_id] = run
    state.heads[pipeline] = replace(head, pending=run_id) if pending else replace(head, active=run_id)
    if not pending:
        _begin(state, entry, run, first, run.request, entry.text("type", first), run.request_id)


def _merged(state: State, entry: Entry, run_id: UUID) -> None:
    run = _run(state, entry, run_id)
    if state.heads[run.pipeline].pending != run_id:
        raise FoldError(entry, "wrong_head", f"{_told(state.heads[run.pipeline])}, so nothing can merge into this run")
    request, cause = entry.part("request"), entry.id("cause")
    state.runs[run_id] = replace(run, request=request, request_id=cause, causes=run.causes + 1, version=entry.seq)


def _started(state: State, entry: Entry, run_id: UUID) -> None:
    """The follow-up begins, in the transaction that ended the run before it."""
    run = _run(state, entry, run_id)
    head = state.heads[run.pipeline]
    if head != Head(active=None, pending=run_id):
        raise FoldError(entry, "wrong_head", f"{_told(head)}, so this run cannot start")
    run = replace(run, state=RunState.RUNNING, stage=entry.text("stage"), started_at=entry.at, version=entry.seq)
    state.runs[run_id], state.heads[run.pipeline] = run, Head(active=run_id)
    _begin(state, entry, run, entry.data, run.request, entry.text("type"), run.request_id)


def _step(state: State, entry: Entry, run_id: UUID) -> None:
    run, key = _run(state, entry, run_id), (run_id, entry.text("stage"))
    step = state.steps.get(key)
    if run.state not in _ACTIVE:
        raise FoldError(entry, "run_not_open", f"the run is {run.state}")
    if step is None or step.stage != run.stage:
        raise FoldError(entry, "wrong_stage", f"the run is at {run.stage}, the entry is about {key[1]}")
    if step.state not in _OPEN:
        raise FoldError(entry, "step_not_open", f"{step.stage} is {step.state} already")
    to = entry.state("state")
    if to != StepState.READY and (entry.number("round"), entry.number("attempt")) != (step.round, step.attempt):
        raise FoldError(entry, "wrong_round", f"{step.stage} is in round {step.round}, attempt {step.attempt}")
    step = replace(step, code=entry.maybe_text("code"), error=entry.maybe_text("error"), started_at=entry.maybe_time("started_at"))
    run = replace(run, version=entry.seq)
    state.runs[run_id] = run
    _STEP_MOVES[to](state, entry, run, step)


def _ready(state: State, entry: Entry, run: Run, step: Step) -> None:
    """Its job failed and the policy is to decide (`output` is the failure), or it was decided: another attempt, perhaps in the next round."""
    round, attempt, failure = entry.number("round"), entry.number("attempt"), entry.data.get("output")
    if failure is not None:
        if step.state != StepState.WAITING or (round, attempt) != (step.round, step.attempt):
            raise FoldError(
                entry, "wrong_round", f"{step.stage} is {step.state} in round {step.round}, attempt {step.attempt}: no job of it can fail"
            )
        step = replace(step, state=StepState.READY, output=failure, output_type=entry.text("output_type"))
    else:
        if run.state != RunState.RUNNING and not entry.data.get("settle"):  # half a deploy is settled though the run is cancelled
            raise FoldError(entry, "run_not_open", f"the run is {run.state}: nothing is tried again")
        if round - step.round not in (0, 1) or attempt - step.attempt not in (0, 1):
            raise FoldError(entry, "wrong_round", f"{step.stage} is in round {step.round}, attempt {step.attempt}")
        nothing: dict[str, Any] = dict.fromkeys(("job", "deadline", "waiting_at", "output", "output_type"))
        step = replace(step, state=StepState.READY, round=round, attempt=attempt, **nothing)
    state.steps[step.key] = step


def _waiting(state: State, entry: Entry, run: Run, step: Step) -> None:
    if step.state != StepState.READY:
        raise FoldError(entry, "step_not_open", f"{step.stage} waits already")
    step = replace(step, state=StepState.WAITING, job=entry.part("job"), deadline=entry.time("deadline"), waiting_at=entry.at)
    state.steps[step.key] = step


def _passed(state: State, entry: Entry, run: Run, step: Step) -> None:
    """Done or skipped: the next step begins, or the run ends."""
    skipped = entry.state("state") == StepState.SKIPPED
    output, kind = entry.data.get("output"), entry.maybe_text("output_type")
    step = replace(step, state=entry.state("state"), output=output, output_type=kind, finished_at=entry.at)
    state.steps[step.key] = step
    run = replace(run, warnings=run.warnings + skipped)
    following = entry.data.get("next")
    if following is None:
        state.owed = Owed(frozenset({"finished"}), run.run_id)
    elif run.state != RunState.RUNNING:
        raise FoldError(entry, "run_not_open", f"the run is {run.state}: no further step begins")
    else:
        run = replace(run, stage=entry.text("stage", entry.part("next")))
        _begin(state, entry, run, entry.part("next"), entry.part("output"), entry.text("output_type"), entry.id("event"))
    state.runs[run.run_id] = run


def _failed(state: State, entry: Entry, run: Run, step: Step) -> None:
    state.steps[step.key] = replace(step, state=entry.state("state"), finished_at=entry.at)
    state.owed = Owed(frozenset({"finished"}), run.run_id)


def _finished(state: State, entry: Entry, run_id: UUID) -> None:
    run = _run(state, entry, run_id)
    outcome = entry.run_state("outcome")
    if not outcome.terminal or not may_move(run.state, outcome):
        raise FoldError(entry, "wrong_move", f"a run that is {run.state} cannot become {outcome}")
    if run.stage is not None and state.steps[run_id, run.stage].state in _OPEN:
        raise FoldError(entry, "step_open", f"its step {run.stage} is not over")
    head = state.heads[run.pipeline]
    if head.active == run_id:
        state.heads[run.pipeline] = replace(head, active=None)
        state.owed = Owed(frozenset({"started"}), head.pending) if head.pending else None
    elif head.pending == run_id:
        state.heads[run.pipeline] = replace(head, pending=None)
    else:
        raise FoldError(entry, "wrong_head", f"{_told(head)}, so this run cannot end")
    code, reason = entry.maybe_text("code"), entry.maybe_text("reason")
    state.runs[run_id] = replace(run, state=outcome, code=code, reason=reason, finished_at=entry.at, version=entry.seq)


def _cancel(state: State, entry: Entry, run_id: UUID) -> None:
    run = _run(state, entry, run_id)
    if run.state != RunState.RUNNING:
        raise FoldError(entry, "wrong_move", f"a run that is {run.state} cannot become {RunState.CANCELLING}")
    state.runs[run_id] = replace(run, state=RunState.CANCELLING, version=entry.seq)


def _reopened(state: State, entry: Entry, run_id: UUID) -> None:
    """The run goes on from a stage with the next round; later stages are void until they are reached again."""
    run = _run(state, entry, run_id)
    head, step = state.heads[run.pipeline], state.steps.get((run_id, entry.text("stage")))
    if not run.state.terminal or not may_move(run.state, RunState.RUNNING):
        raise FoldError(entry, "wrong_move", f"a run that is {run.state} cannot be opened again")
    if head != Head():
        raise FoldError(entry, "wrong_head", f"{_told(head)}, so this run cannot be opened again")
    if step is None:
        raise FoldError(entry, "wrong_stage", f"the run never got to {entry.text('stage')}")
    if entry.number("round") != step.round + 1:
        raise FoldError(entry, "wrong_round", f"the last round of {step.stage} was {step.round}")
    for stage in entry.texts("void"):
        if (later := state.steps.get((run_id, stage))) is None:
            raise FoldError(entry, "wrong_stage", f"the run never got to {stage}")
        state.steps[later.key] = replace(later, state=StepState.CANCELLED, code="reopened")
    nothing: dict[str, Any] = dict.fromkeys(("code", "reason", "finished_at"))
    run = replace(run, state=RunState.RUNNING, stage=step.stage, warnings=0, version=entry.seq, **nothing)
    state.runs[run_id], state.heads[run.pipeline] = run, Head(active=run_id)
    _begin(state, entry, run, entry.data, step.input, step.input_type, step.input_id)


def _begin(state: State, entry: Entry, run: Run, wanted: dict[str, Any], given: dict[str, Any], kind: str, event: UUID) -> None:
    """A step becomes ready; one that was over gets its next round."""
    stage = entry.text("stage", wanted)
    before = state.steps.get((run.run_id, stage))
    if before is not None and before.state not in CLOSED:
        raise FoldError(entry, "step_open", f"{stage} is {before.state}, so it cannot begin")
    state.steps[run.run_id, stage] = Step(
        run_id=run.run_id,
        stage=stage,
        tenant_id=run.tenant_id,
        pipeline=run.pipeline,
        state=StepState.READY,
        round=before.round + 1 if before else 1,
        limit_name=entry.maybe_text("limit", wanted),
        input=given,
        input_type=kind,
        input_id=event,
        ready_at=entry.at,
    )


def _run(state: State, entry: Entry, run_id: UUID) -> Run:
    run = state.runs.get(run_id)
    if run is None:
        raise FoldError(entry, "unknown_run", "the run was never accepted")
    return run


def _told(head: Head) -> str:
    return f"the active run is {head.active or 'none'}, the pending one {head.pending or 'none'}"


_MOVES: dict[str, Callable[[State, Entry, UUID], None]] = {
    "requested": _requested,
    "accepted": _accepted,
    "merged": _merged,
    "started": _started,
    "step": _step,
    "finished": _finished,
    "cancel": _cancel,
    "reopened": _reopened,
}


def _never_written(state: State, entry: Entry, run: Run, step: Step) -> None:
    raise FoldError(entry, "wrong_move", "that a worker took a step is never journalled")


_STEP_MOVES: dict[StepState, Callable[[State, Entry, Run, Step], None]] = {
    StepState.READY: _ready,
    StepState.RUNNING: _never_written,
    StepState.WAITING: _waiting,
    StepState.DONE: _passed,
    StepState.SKIPPED: _passed,
    StepState.FAILED: _failed,
    StepState.CANCELLED: _failed,
}
