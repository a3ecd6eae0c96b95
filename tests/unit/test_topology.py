"""The pipelines' wiring, asserted once; README and pages are drawn from the same list."""

import pytest

from agents import PIPELINES, QUALITY, TRAINING
from streams.pipelines import Pipelines
from streams.settings import Settings
from streams.stage import Pipeline
from tests.pipeline.toy import TOY


def test_an_event_travels_from_request_to_warm_cache():
    assert TRAINING.topology() == [
        ("validate", "training.requested", "training.validated"),
        ("train", "training.validated", "training.started"),
        ("train (watch)", "training.started", "training.completed"),
        ("index", "training.completed", "index.built | index.started"),
        ("index (watch)", "index.started", "index.built"),
        ("deploy", "index.built", "model.deployed"),
        ("warm", "model.deployed", "cache.warmed"),
    ]


def test_a_tick_becomes_a_verdict_and_the_verdict_a_decision():
    assert QUALITY.topology() == [("measure", "dq.tick", "dq.evaluated"), ("alert", "dq.evaluated", "dq.decided")]


def test_every_stage_says_what_it_does():
    assert all(stage.doc for pipeline in PIPELINES for stage in pipeline.stages)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (Pipeline("training", QUALITY.stages, version="1"), "the name training"),
        (Pipeline("small", TOY.stages[:1], version="1"), "requests on training.requested"),
        (Pipeline("late", TOY.stages[1:], version="1"), "a stage train of their own"),
        (Pipeline("late", TRAINING.stages[1:], version="1"), "completions on training.completed"),
    ],
)
def test_pipelines_that_an_event_cannot_tell_apart_are_refused(other: Pipeline, shared: str):
    with pytest.raises(TypeError, match=shared):
        Pipelines((TRAINING, other), Settings())
