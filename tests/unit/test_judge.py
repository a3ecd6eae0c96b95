"""The verdicts of `tidemill prove`: agreeing witnesses are ok, and each forged one is named."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from schemas.states import RunState
from streams.proof.judge import Line, judge
from streams.proof.neighbours import Accepted, Journals
from streams.proof.record import Answered, Record, Refilled, read_journal
from streams.proof.topics import Published

AT = datetime(2026, 11, 1, tzinfo=UTC)
RUN = UUID(int=9)
FIRST = {"stage": "train", "limit": None, "type": "t"}


def entry(seq: int, kind: str, topic: str | None = None, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "at": AT, "kind": kind, "event_id": UUID(int=seq) if topic else None, "topic": topic, "data": data}


def step(seq: int, stage: str, state: str, round: int = 1, topic: str | None = None, **data: Any) -> dict[str, Any]:
    return entry(seq, "step", topic, stage=stage, state=state, round=round, **data)


WHOLE = (
    entry(1, "accepted", "run.accepted", first=FIRST, pending=False),
    step(2, "train", "waiting", topic="training.started", job={"job_id": "j1"}),
    step(3, "train", "done", next={"stage": "deploy"}),
    step(4, "deploy", "done", topic="model.deployed"),
    entry(5, "finished", "run.finished"),
)
TRAIN = Answered(f"{RUN}:train:1", "train", 1, "POST /api/v1/train", 202, "j1")
DEPLOY = Answered(f"{RUN}:deploy:1", "deploy", 1, "POST /api/v1/deploy", 200, None)


def accepted(key: str | None, path: str) -> Accepted:
    return Accepted(idempotency_key=key, method="POST", path=path, tenant_id="acme", at="", status=200)


class Case:
    """A run that all witnesses agree on, to be forged."""

    def __init__(self, *entries: dict[str, Any], state: RunState = RunState.SUCCEEDED) -> None:
        self.entries = list(entries or WHOLE)
        self.record = Record(RUN, "acme", state, AT, answered=[TRAIN, DEPLOY])
        self.published = Published()
        for each in self.entries:
            if each["topic"]:
                self.publish(each["topic"], each["event_id"])
        self.there: Journals = {
            "ml_engine": [accepted(TRAIN.key, "/api/v1/train")],
            "inference": [accepted(DEPLOY.key, "/api/v1/deploy")],
            "monitoring": [],
        }
        self.kept_since: dict[str, datetime] = {}

    def publish(self, topic: str, event: UUID) -> None:
        headers = {"ce_source": "tidemill", "ce_id": str(event), "ce_subject": str(RUN)}
        self.published.take(topic, [(name, text.encode()) for name, text in headers.items()])

    def accept(self, name: str, key: str | None, path: str) -> None:
        rows = self.there[name]
        assert rows is not None
        rows.append(accepted(key, path))

    def lines(self, later: Record | None = None) -> list[Line]:
        record = replace(self.record, events=[], words={}, jobs=set())
        read_journal(record, self.entries)
        return judge(record, self.published, self.there, kept_since=self.kept_since, later=later)

    def wrong(self) -> list[tuple[str, str]]:
        return [(line.verdict, line.key) for line in self.lines() if line.mismatch]

    def verdict(self, key: object) -> str:
        return next(line.verdict for line in self.lines() if line.key == str(key))


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_run_on_which_all_agree_has_a_line_an_effect_and_no_mismatch(case: Case) -> None:
    lines = case.lines()
    assert [line.verdict for line in lines] == ["ok"] * 6
    assert [line.effect for line in lines] == [
        *("run.accepted", "training.started", "model.deployed", "run.finished"),
        *("POST /api/v1/train", "POST /api/v1/deploy"),
    ]
    assert (lines[4].journal, lines[4].ledger, lines[4].there) == ("done", "1× 202", "1× ml_engine")


def test_an_event_that_was_published_twice_is_shown_and_fine(case: Case) -> None:
    case.publish("model.deployed", UUID(int=4))
    line = next(line for line in case.lines() if line.effect == "model.deployed")
    assert (line.verdict, line.there) == ("ok", "2×")


def test_an_event_that_kafka_never_got_is_a_mismatch(case: Case) -> None:
    del case.published.times[UUID(int=4)]
    assert case.wrong() == [("not_on_kafka", str(UUID(int=4)))]


def test_an_event_in_the_outbox_is_not_judged_and_one_refused_for_good_is(case: Case) -> None:
    del case.published.times[UUID(int=4)], case.published.times[UUID(int=5)]
    case.record.unsent = {UUID(int=4): None, UUID(int=5): "too large"}
    assert case.verdict(UUID(int=4)) == "open"
    assert case.wrong() == [("unpublishable", str(UUID(int=5)))]


def test_an_event_older_than_its_topic_keeps_is_not_judged(case: Case) -> None:
    del case.published.times[UUID(int=4)]
    case.kept_since = {"model.deployed": AT + timedelta(seconds=1)}
    assert case.verdict(UUID(int=4)) == "expired"


def test_an_event_in_our_name_that_the_journal_never_said_is_a_mismatch(case: Case) -> None:
    forged = uuid4()
    case.publish("model.deployed", forged)
    assert case.wrong() == [("not_journalled", str(forged))]


def test_an_event_that_was_journalled_meanwhile_is_fine(case: Case) -> None:
    newer = entry(6, "step", "cache.warmed", stage="deploy", state="done", round=1)
    case.publish("cache.warmed", newer["event_id"])
    later = replace(case.record, events=[], words={}, jobs=set())
    read_journal(later, [*case.entries, newer])
    assert not any(line.mismatch for line in case.lines(later))


def test_an_effect_that_a_neighbour_accepted_twice_is_doubled(case: Case) -> None:
    case.accept("ml_engine", TRAIN.key, "/api/v1/train")
    assert case.wrong() == [("doubled", TRAIN.key)]


def test_two_keys_of_one_round_that_were_both_accepted_are_doubled(case: Case) -> None:
    case.accept("inference", f"{DEPLOY.key}:on-3", "/api/v1/deploy")
    assert case.wrong() == [("doubled", DEPLOY.key), ("doubled", f"{DEPLOY.key}:on-3")]


def test_a_second_key_after_a_refused_first_one_is_fine(case: Case) -> None:
    case.record.answered = [TRAIN, replace(DEPLOY, status=422), replace(DEPLOY, key=f"{DEPLOY.key}:on-3")]
    case.there["inference"] = [accepted(f"{DEPLOY.key}:on-3", "/api/v1/deploy")]
    assert case.wrong() == []


def test_two_jobs_under_one_key_are_a_mismatch(case: Case) -> None:
    case.record.answered.append(replace(TRAIN, job_id="j2"))
    assert case.wrong() == [("two_jobs", TRAIN.key)]


def test_an_acceptance_that_the_neighbour_does_not_know_is_a_mismatch(case: Case) -> None:
    case.there["inference"] = []
    assert case.wrong() == [("missing_there", DEPLOY.key)]


def test_a_neighbour_without_a_journal_is_not_judged(case: Case) -> None:
    case.there["inference"] = None
    assert case.wrong() == []


@pytest.mark.parametrize("key", [f"{RUN}:train:2", f"{RUN}:explode:1", f"{RUN}:train:x", f"{RUN}:"])
def test_a_key_of_the_run_that_no_step_explains_is_a_mismatch(case: Case, key: str) -> None:
    case.accept("ml_engine", key, "/api/v1/train")
    assert case.wrong() == [("unexplained", key)]


def test_an_accepted_effect_whose_answer_never_came_is_fine_if_its_step_is_over(case: Case) -> None:
    case.record.answered.remove(DEPLOY)
    assert case.wrong() == []


def test_keys_of_others_and_calls_without_a_key_are_none_of_this_run(case: Case) -> None:
    for key in (None, f"{uuid4()}:train:1", "alert:x:opened", "cancel:another"):
        case.accept("ml_engine", key, "/api/v1/train")
    assert len(case.lines()) == 6
    assert case.wrong() == []


def test_the_cancel_of_its_own_job_is_part_of_the_run(case: Case) -> None:
    case.accept("ml_engine", "cancel:j1", "/api/v1/jobs/j1/cancel")
    assert case.verdict("cancel:j1") == "ok"


def test_a_run_in_flight_is_judged_as_far_as_it_is_over() -> None:
    case = Case(*WHOLE[:3], state=RunState.RUNNING)
    assert (case.verdict(TRAIN.key), case.verdict(DEPLOY.key)) == ("ok", "open")
    assert case.wrong() == []


def test_a_run_that_is_over_with_a_step_that_is_not_is_a_mismatch() -> None:
    assert Case(*WHOLE[:3], WHOLE[4]).wrong() == [("step_open", DEPLOY.key)]


def test_each_round_has_its_own_word_in_the_journal() -> None:
    again = step(3, "train", "ready", round=2)
    case = Case(*WHOLE[:2], again, step(4, "train", "done", round=2), entry(5, "finished", "run.finished"))
    case.record.answered = [TRAIN, replace(TRAIN, key=f"{RUN}:train:2", round=2, job_id="j2")]
    case.accept("ml_engine", f"{RUN}:train:2", "/api/v1/train")
    case.there["inference"] = []
    lines = {line.key: line for line in case.lines()}
    assert (lines[TRAIN.key].journal, lines[f"{RUN}:train:2"].journal) == ("next round", "done")
    assert case.wrong() == []


def test_an_event_whose_entry_a_refill_set_aside_or_lists_as_lost_is_no_mismatch(case: Case) -> None:
    undone, lost, forged = (uuid4() for _ in range(3))
    for event in (undone, lost, forged):
        case.publish("index.built", event)
    case.published.sequence = {lost: 12, forged: 15}
    case.record.refilled = Refilled(undone={undone}, holes=[(11, 14)])
    assert (case.verdict(undone), case.verdict(lost), case.verdict(forged)) == ("ok", "hole", "not_journalled")


def test_a_command_for_which_there_is_no_word_may_be_in_a_hole() -> None:
    case = Case(*WHOLE[:1], WHOLE[-1])
    case.record.refilled = Refilled(holes=[(2, 4)], ended={RUN})
    assert (case.verdict(TRAIN.key), case.verdict(DEPLOY.key)) == ("ok", "hole")
