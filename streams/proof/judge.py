"""Holds the witnesses of one run against each other: a line an effect, and a verdict on each. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from streams.proof.neighbours import Accepted, Journals, owner
from streams.proof.record import OVER, Answered, Record, Refilled
from streams.proof.topics import Published

OK, OPEN, GONE, HOLE = "ok", "open", "expired", "hole"
_LOST = "its entry was lost with the ledger, in a hole that the refill has listed"


@dataclass(frozen=True, slots=True)
class Line:
    """One effect: an event on a topic, or a command to a neighbour, and what each witness says of it."""

    effect: str
    """The topic, or the command."""
    key: str
    """The event's id, or the idempotency key."""
    verdict: str
    """ok, open (not over yet, not judged), expired (older than the topic keeps), hole (lost, and listed as such), or the code of the mismatch."""
    journal: str
    ledger: str
    """How often a worker kept an answer to it, and which."""
    there: str
    """How often it lies on Kafka, or was accepted by the neighbour."""
    sentence: str = ""

    @property
    def mismatch(self) -> bool:
        return self.verdict not in (OK, OPEN, GONE, HOLE)


def judge(record: Record, published: Published, journals: Journals, *, kept_since: dict[str, datetime], later: Record | None = None) -> list[Line]:
    """Every effect of the run. `kept_since`: topic -> what is older may be gone; `later`: the run as seen after the other witnesses spoke."""
    return [*_events(record, published, kept_since, later or record), *_commands(record, journals, later or record)]


def _events(record: Record, published: Published, kept_since: dict[str, datetime], later: Record) -> Iterator[Line]:
    for said in record.events:
        times, verdict, sentence = published.times.get(said.event_id, 0), OK, ""
        if not times and said.event_id in record.unsent:
            refusal = record.unsent[said.event_id]
            verdict = "unpublishable" if refusal else OPEN
            sentence = f"the broker refuses it for good: {refusal[:200]}" if refusal else "it is in the outbox; a worker publishes it"
        elif not times and said.topic in kept_since and said.at < kept_since[said.topic]:
            verdict, sentence = GONE, "older than the topic keeps"
        elif not times:
            verdict = "not_on_kafka"
            sentence = f"journalled at {said.at:%Y-%m-%d %H:%M:%S} and neither on Kafka nor in the outbox: it was lost, or the topic was cut"
        yield Line(said.topic, str(said.event_id), verdict, f"entry {said.seq}", "", f"{times}×", sentence)
    journalled = {said.event_id for said in [*record.events, *later.events]}
    for event, topic in published.of_run.get(record.run_id, {}).items():
        if event not in journalled:
            sentence = "on Kafka in our name, but the journal never said it: the ledger was set back, or somebody else publishes"
            yield unsaid(topic, event, published, later.refilled, "not_journalled", sentence)


def unsaid(topic: str, event: UUID, published: Published, lost: Refilled, code: str, sentence: str) -> Line:
    """An event of which no entry is left: accused, unless the refill accounts for it."""
    verdict, word = code, "nothing"
    if event in lost.undone:
        verdict, word, sentence = OK, "set aside", "its entry was set aside when the ledger was refilled"
    elif lost.lost(published.sequence.get(event)):
        verdict, sentence = HOLE, _LOST
    return Line(topic, str(event), verdict, word, "", f"{published.times[event]}×", sentence)


def _commands(record: Record, journals: Journals, later: Record) -> Iterator[Line]:
    there: dict[str, list[tuple[str, Accepted]]] = defaultdict(list)
    for name, rows in journals.items():
        for row in rows or ():
            if row.idempotency_key is not None:
                there[row.idempotency_key].append((name, row))
    here: dict[str, list[Answered]] = defaultdict(list)
    for answer in record.answered:
        here[answer.key].append(answer)
    keys = list(dict.fromkeys([*here, *(key for key in there if record.owns(key) or later.owns(key))]))
    again = _more_than_one(keys, there, record)
    for key in keys:
        yield _command(record, later, key, here[key], there[key], journals, again)


def _more_than_one(keys: list[str], there: dict[str, list[tuple[str, Accepted]]], record: Record) -> set[str]:
    """Keys whose stage and round had another accepted effect on the same path: a stage may send under several keys, but one alone may take."""
    taken: Counter[tuple[object, str]] = Counter()
    for key in keys:
        if step := record.step_of(key):
            taken.update({(step, row.path) for _, row in there[key]})
    return {key for key in keys for _, row in there[key] if taken[record.step_of(key), row.path] > 1}


def _command(
    record: Record, later: Record, key: str, answers: list[Answered], rows: list[tuple[str, Accepted]], journals: Journals, again: set[str]
) -> Line:
    command = answers[0].command if answers else f"{rows[0][1].method} {rows[0][1].path}"
    step, whose = later.step_of(key), owner(command.partition(" ")[2])
    word = later.words[step] if step else "its job" if key.startswith("cancel:") else "nothing"
    verdict, sentence = _verdict(record, key, answers, rows, whose is not None and journals.get(whose) is None, again)
    if verdict == OK and key.startswith(f"{record.run_id}:"):
        if step is None:
            verdict, sentence = "unexplained", "accepted there under a key of this run, but the journal knows no such stage and round"
            if later.refilled.holes:
                verdict, sentence = HOLE, _LOST
        elif word not in OVER:
            verdict, sentence = OPEN, sentence or f"{step[0]} is not over"
            if record.over:
                verdict, sentence = "step_open", f"the run is over, but its journal has no end of {step[0]} in round {step[1]}"
    kept = ", ".join(f"{times}× {status}" for status, times in Counter(answer.status for answer in answers).items())
    seen = ", ".join(f"{times}× {name}" for name, times in Counter(name for name, _ in rows).items())
    return Line(command, key, verdict, word, kept or "none", seen or ("no journal" if journals.get(whose or "", ()) is None else "0×"), sentence)


def _verdict(record: Record, key: str, answers: list[Answered], rows: list[tuple[str, Accepted]], silent: bool, again: set[str]) -> tuple[str, str]:
    accepted = [answer for answer in answers if answer.accepted]
    jobs = {answer.job_id for answer in accepted if answer.job_id}
    if len(jobs) > 1:
        return "two_jobs", f"the neighbour gave {len(jobs)} job ids under one key: it does not honour the key"
    if len(rows) > 1:
        return "doubled", f"accepted {len(rows)} times under one key: the neighbour does not honour it"
    if key in again:
        return "doubled", "another effect of the same stage and round was accepted under another key"
    if accepted and not rows:
        if silent:
            return OK, "the neighbour keeps no journal; its answer alone speaks for it"
        return "missing_there", "a worker kept its acceptance, but the neighbour has no record of it: the neighbour lost it, or was set back"
    if rows and not accepted:
        return OK, "accepted there; the answer never came here, or came to a worker that died"
    return OK, ""
