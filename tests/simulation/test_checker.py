"""The checker is itself checked: a world at rest passes, and each forged violation is named by the invariant it breaks."""

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from uuid import uuid4

import pytest

from tests.simulation.checker import Facts, check
from tests.simulation.server import Server

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(180)]


def a_world_at_rest(dsn: str) -> bytes:
    """The facts of a fair seed."""
    from tests.simulation import run
    from tests.simulation.weather import Weather

    kept: list[Facts] = []
    collect = run.collect

    async def keep(*args: object) -> Facts:
        kept.append(await collect(*args))  # type: ignore[arg-type]
        return kept[0]

    run.collect = keep  # type: ignore[assignment]
    reports = run.run_seeds(dsn, [2], harsh=dict.fromkeys(Weather.__slots__, 0.0))
    assert not reports[0].violations, reports[0]
    asyncio.set_event_loop(None)
    return pickle.dumps(kept[0])


@pytest.fixture(scope="module")
def recorded(server: Server) -> bytes:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(a_world_at_rest, server.ledger("fair")).result()


@pytest.fixture
def facts(recorded: bytes) -> Facts:
    found = pickle.loads(recorded)
    assert isinstance(found, Facts)
    return found


def test_a_world_at_rest_violates_nothing(facts: Facts) -> None:
    assert check(facts) == []
    assert len(facts.tables["runs"]) > 1
    assert facts.effects


def _lose_a_cause(facts: Facts) -> None:
    del facts.tables["causes"][0]


def _run_twice(facts: Facts) -> None:
    facts.tables["causes"].append(facts.tables["causes"][0] | {"run_id": uuid4()})


def _invent_a_run(facts: Facts) -> None:
    facts.tables["causes"].append(facts.tables["causes"][0] | {"event_id": uuid4()})


def _do_twice(facts: Facts) -> None:
    facts.effects.append(facts.effects[0])


def _do_again(facts: Facts) -> None:
    effect = facts.effects[0]
    key = effect.key.rpartition(":")[0] + ":2"
    facts.effects.append(type(effect)(effect.neighbour, key, effect.command, effect.tenant_id, effect.body, effect.reply, effect.at))


def _do_nothing(facts: Facts) -> None:
    facts.effects.clear()


def _lose_an_entry(facts: Facts) -> None:
    del facts.tables["journal"][3]


def _change_a_row(facts: Facts) -> None:
    facts.tables["runs"][0]["warnings"] += 1


def _two_at_once(facts: Facts) -> None:
    for row in facts.tables["journal"]:
        if row["kind"] == "accepted":
            row["data"] = row["data"] | {"pending": False}
    for tenant in {row["tenant_id"] for row in facts.tables["journal"]}:
        rows = sorted((row for row in facts.tables["journal"] if row["tenant_id"] == tenant), key=lambda row: row["kind"] != "accepted")
        for seq, row in enumerate(rows, 1):
            row["seq"] = seq


def _leave_a_run_open(facts: Facts) -> None:
    facts.tables["runs"][0]["state"] = "running"


def _fail_without_reason(facts: Facts) -> None:
    facts.tables["runs"][0] |= {"state": "failed", "code": "unstorable"}


def _keep_a_slot(facts: Facts) -> None:
    facts.tables["limit_slots"].append({"name": "ml_engine", "n": 1, "run_id": facts.tables["runs"][0]["run_id"]})


def _somebody_elses_effect(facts: Facts) -> None:
    facts.effects[0].tenant_id = "somebody"


def _somebody_elses_model(facts: Facts) -> None:
    step = next(step for step in facts.tables["steps"] if step["stage"] == "train" and step["state"] == "done")
    step["output"] = step["output"] | {"model_path": "models/somebody/forged"}


def _skip_an_offset(facts: Facts) -> None:
    facts.tables["offsets"][0]["next"] -= 1


def _forget_an_event(facts: Facts) -> None:
    facts.tables["inbox"].pop()


def _leave_a_gap(facts: Facts) -> None:
    facts.tables["gaps"].append({"topic": "training.requested", "partition": 0, "first": 0, "past": 1, "state": "open"})


def _publish_nothing(facts: Facts) -> None:
    facts.records = [record for record in facts.records if record.topic != "run.finished"]


def _leave_a_row(facts: Facts) -> None:
    facts.tables["outbox"].append({"id": 1, "topic": "run.finished", "tenant_id": "acme"})


def _tell_another_sequence(facts: Facts) -> None:
    at = next(n for n, record in enumerate(facts.records) if record.topic == "model.deployed")
    record = facts.records[at]
    facts.records[at] = record._replace(headers=[(name, b"7777" if name == "ce_sequence" else value) for name, value in record.headers])


def _tell_an_old_state(facts: Facts) -> None:
    facts.tables["runs"][0]["version"] += 1


FORGERIES: list[tuple[Callable[[Facts], None], str]] = [
    (_lose_a_cause, "I1"),
    (_run_twice, "I1"),
    (_invent_a_run, "I1"),
    (_do_twice, "I2"),
    (_do_again, "I2"),
    (_do_nothing, "I2"),
    (_lose_an_entry, "I3"),
    (_change_a_row, "I3"),
    (_two_at_once, "I3"),
    (_tell_another_sequence, "I3"),
    (_tell_an_old_state, "I3"),
    (_leave_a_run_open, "I4"),
    (_fail_without_reason, "I4"),
    (_keep_a_slot, "I4"),
    (_somebody_elses_effect, "I6"),
    (_somebody_elses_model, "I6"),
    (_skip_an_offset, "I7"),
    (_forget_an_event, "I7"),
    (_leave_a_gap, "I7"),
    (_publish_nothing, "I7"),
    (_leave_a_row, "I7"),
]


@pytest.mark.parametrize(("forge", "invariant"), FORGERIES, ids=[forge.__name__.strip("_") for forge, _ in FORGERIES])
def test_a_forged_violation_is_named(facts: Facts, forge: Callable[[Facts], None], invariant: str) -> None:
    forge(facts)
    found = check(facts)
    assert any(each.startswith(f"{invariant}:") for each in found), found
