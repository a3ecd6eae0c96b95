"""Says in sentences where two states of one tenant differ: what the journal comes to, and what the rows are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streams.folded import Comparable, FoldError, State


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two records of the same thing do not agree."""

    tenant_id: str
    code: str
    about: str
    """`run …`, `step train of run …`, `pipeline training`, or `journal`."""
    sentence: str


def refused(error: FoldError) -> Difference:
    """A journal that cannot be folded."""
    return Difference(error.tenant_id, f"journal_{error.code}", f"journal entry {error.seq}", str(error))


def differences(tenant_id: str, folded: State, rows: Comparable) -> Iterator[Difference]:
    """Everything in which the rows are not what the journal comes to."""
    wanted = Comparable.of_state(folded)
    if folded.owed:
        due = f"{' or '.join(sorted(folded.owed.kinds))} of run {folded.owed.run_id}"
        yield Difference(tenant_id, "journal_cut", "journal", f"it stops at entry {folded.seq} inside a transaction: {due} is missing")
    if wanted.seq != rows.seq:
        sentence = f"its last entry is {wanted.seq}, but the tenant's number is {rows.seq}: entries at its end are missing"
        if wanted.seq > rows.seq:
            sentence = f"it has entries up to {wanted.seq}, but the tenant's number is {rows.seq}: the next entries would collide"
        yield Difference(tenant_id, "journal_end", "journal", sentence)
    yield from _pairs(
        tenant_id, "run", {f"run {key}": run for key, run in wanted.runs.items()}, {f"run {key}": run for key, run in rows.runs.items()}
    )
    yield from _pairs(tenant_id, "step", _by_step(wanted), _by_step(rows))
    yield from _pairs(tenant_id, "head", _by_pipeline(wanted), _by_pipeline(rows))


def _by_step(state: Comparable) -> dict[str, Mapping[str, Any]]:
    return {f"step {stage} of run {run}": step for (run, stage), step in state.steps.items()}


def _by_pipeline(state: Comparable) -> dict[str, Mapping[str, Any]]:
    return {f"pipeline {name}": head for name, head in state.heads.items()}


def _pairs(tenant_id: str, kind: str, wanted: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for about in sorted(wanted.keys() | there.keys()):
        if about not in there:
            yield Difference(tenant_id, f"{kind}_missing", about, "the journal has it, the rows do not")
        elif about not in wanted:
            yield Difference(tenant_id, f"{kind}_unknown", about, "the rows have it, the journal does not")
        else:
            yield from fields(tenant_id, kind, about, wanted[about], there[about], ("journal", "rows"))


def fields(tenant_id: str, kind: str, about: str, one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> Iterator[Difference]:
    """The fields in which two records of one thing differ; `names`: whose they are."""
    for name in one.keys() | other.keys():
        if one.get(name) != other.get(name):
            said = f"{name}: {names[0]} {_short(one.get(name))}, {names[1]} {_short(other.get(name))}"
            yield Difference(tenant_id, f"{kind}_differs", about, said)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
