"""The contracts of every topic: samples, readers of another schema version, tenant ids, and how events follow each other."""

import json
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.catalogue import EVENTS, FOREIGN
from schemas.cloudevents import Origin, Received, decode, encode
from schemas.quality import DqTick
from schemas.tenant import ALL_TENANTS, is_tenant_id
from schemas.training import IndexBuilt, TrainingCompleted, TrainingRequested, TrainingStarted, TrainingValidated

SAMPLES = Path(__file__).parent.parent / "samples"
RUN = UUID("5f0c3f6e-0f4b-5d57-9a0f-3a1c7c1d9e10")
each_topic = pytest.mark.parametrize("topic", sorted(EVENTS))


def sample(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{topic}.json").read_text())
    return found


def read(topic: str, data: dict[str, Any], headers: dict[str, str]) -> Received:
    raw = {name: text.encode() for name, text in headers.items()}
    return decode(None, json.dumps(data).encode(), raw, Origin("cluster", topic, 0, 7, 1_772_330_400_000))


def test_every_topic_has_a_sample_and_no_other_has() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(EVENTS)
    assert set(EVENTS) >= FOREIGN


@each_topic
def test_a_sample_loads_and_dumps_unchanged(topic: str) -> None:
    told = sample(topic)
    received = read(topic, told["data"], told["headers"])
    assert type(received.event) is EVENTS[topic]
    assert received.event.dump() == told["data"]
    record = encode(received.event, received.meta)
    assert json.loads(record.value) == told["data"]
    assert {name: value.decode() for name, value in record.headers} == told["headers"]
    assert record.key.decode() == told["data"].get("tenant_id", ALL_TENANTS)


@each_topic
def test_a_reader_of_this_schema_reads_an_event_of_a_newer_one(topic: str) -> None:
    told = sample(topic)
    newer = told["data"] | {"added_later": {"deep": [1, {"er": None}]}, "also": "new"}
    assert read(topic, newer, told["headers"] | {"ce_newer": "1"}).event == read(topic, told["data"], told["headers"]).event


def test_a_reader_of_a_newer_schema_reads_an_event_of_this_one() -> None:
    class IndexBuiltLater(IndexBuilt):
        topic: ClassVar[str] = "index.built"
        shards: int = 1

    data = sample("index.built")["data"]
    assert IndexBuiltLater.model_validate(data).shards == 1
    newer = IndexBuiltLater.model_validate(data | {"shards": 4})
    assert read("index.built", newer.dump(), {}).event == IndexBuilt.model_validate(data)


@each_topic
def test_an_event_cannot_be_changed(topic: str) -> None:
    event = EVENTS[topic].model_validate(sample(topic)["data"])
    with pytest.raises(ValidationError, match="frozen"):
        event.run_id = RUN


def test_the_next_event_is_of_the_same_tenant_and_run() -> None:
    validated = TrainingValidated.model_validate(sample("training.validated")["data"])
    started = validated.then(TrainingStarted, job_id="job-9")
    assert started == TrainingStarted(tenant_id="acme", run_id=validated.run_id, job_id="job-9")


def test_a_fact_learns_its_run_and_keeps_the_rest() -> None:
    completed = TrainingCompleted(tenant_id="acme", job_id="job-9", status="completed")
    assert completed.of_run(RUN).dump() == completed.dump() | {"run_id": str(RUN)}
    assert completed.run_id is None


def test_unknown_knobs_of_the_training_travel_to_the_engine() -> None:
    request = TrainingRequested.model_validate({"tenant_id": "acme", "model_config": {"epochs": 3, "temperature": 0.5}})
    assert request.dump()["model_config"] == {
        "model_type": "matrix_factorization",
        "epochs": 3,
        "batch_size": 1024,
        "factors": 32,
        "temperature": 0.5,
    }


@pytest.mark.parametrize(("status", "code"), [("failed", "training_failed"), ("cancelled", "training_cancelled")])
def test_a_completion_that_is_no_success_names_its_failure(status: str, code: str) -> None:
    completed = TrainingCompleted.model_validate({"tenant_id": "acme", "job_id": "job-9", "status": status, "error": "out of memory"})
    assert completed.failure is not None
    assert completed.failure.code == code
    assert "job-9" in completed.failure.sentence
    assert "out of memory" in completed.failure.sentence


def test_a_completed_job_is_no_failure() -> None:
    assert TrainingCompleted(tenant_id="acme", job_id="job-9", status="completed").failure is None


def test_a_tick_for_everybody_has_a_key_that_no_tenant_can_have() -> None:
    assert DqTick().key == ALL_TENANTS
    assert not is_tenant_id(ALL_TENANTS)
    assert DqTick(tenant_id="acme").key == "acme"


@pytest.mark.parametrize("good", ["ab", "a1", "0a", "a-b", "a--", "9" * 63])
def test_a_tenant_id_of_the_allowed_letters_is_accepted(good: str) -> None:
    assert is_tenant_id(good)
    assert TrainingRequested(tenant_id=good).tenant_id == good


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{1,62}", fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_every_id_that_follows_the_rule_is_accepted(text: str) -> None:
    assert is_tenant_id(text)


@given(st.one_of(st.text(), st.text(alphabet="aA0-_./%\n\0é\u0430\uff41", max_size=70), st.integers(), st.none()))
def test_an_accepted_tenant_id_is_safe_in_a_path_a_key_and_a_label(thing: object) -> None:
    if is_tenant_id(thing):
        text = str(thing)
        assert 2 <= len(text) <= 63
        assert text[0] != "-"
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    else:
        with pytest.raises(ValidationError):
            TrainingRequested.model_validate({"tenant_id": thing})
