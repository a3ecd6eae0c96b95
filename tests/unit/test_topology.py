"""The pipelines' wiring, asserted once; README and pages are drawn from the same list."""

from agents import PIPELINES, QUALITY, TRAINING


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
