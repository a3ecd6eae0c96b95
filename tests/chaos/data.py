"""Invariant I5, from its beginning: what lies in the object store is seen as it lies there, and a broken read is never taken for bad data."""

import json
from collections.abc import Iterator

from schemas.states import RunState
from tests.chaos.snapshot import Snapshot
from tests.chaos.violation import Harm, Violation


def good_data_is_seen_as_it_lies(snap: Snapshot) -> Iterator[Violation]:
    """Each `training.validated` counts the files and bytes that are there: a listing that was cut short is not the whole."""
    for record in snap.records.get("training.validated", []):
        said = json.loads(record.value or b"{}")
        there = snap.data.get(said.get("tenant_id"))
        if there is not None and (said["files"], said["bytes"]) != there:
            yield Violation(
                "I5", Harm.WRONG, f"run {said['run_id']} was validated with {said['files']} files of {said['bytes']} bytes; there are {there}"
            )


def good_data_goes_live(snap: Snapshot) -> Iterator[Violation]:
    """No run of a tenant whose data is good ends in failure but for what was planted: no fault outlasts the retries."""
    for run_id, run in snap.runs.items():
        if (
            run["tenant_id"] in snap.data
            and run["state"] in (RunState.FAILED, RunState.TIMED_OUT, RunState.BLOCKED)
            and run["code"] not in snap.may_fail
        ):
            sentence = f"run {run_id} of {run['tenant_id']} ended {run['state']} ({run['code']}: {run['reason']}), though its data was good"
            yield Violation("I5", Harm.LOST, sentence)
