"""What a refill writes back, on a real ledger: requests that their makers know again, ended runs, versions."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import orjson
import pytest

from streams.fold import fold
from streams.folded import Entry
from streams.ledger.connection import Connection, connect
from streams.ledger.ledger import Answer
from streams.records import event_record
from streams.refill.mend import Mended, mend
from streams.refill.read import Partition
from streams.refill.refill import Refill
from streams.refill.write import write
from streams.requests import request_run
from streams.timers import Timers
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import CLUSTER, Travel
from tests.unit.journals import Journal

LOST = "truncate tenants, tenant_heads, pipeline_heads, inbox, causes, journal, runs, steps, outbox cascade"


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    travel.ledger.start()
    yield travel
    await travel.ledger.stop()


async def accepted_anew(travel: Travel) -> None:
    """The request went out, its ledger is lost, and it gets its run back."""
    [row] = await travel.rows("select to_jsonb(o)::text as row from outbox o where topic = 'training.requested'")
    sent = event_record(orjson.loads(row["row"]))
    await travel.rows(LOST)
    partition = Partition()
    place = {"topic": "training.requested", "partition": 0, "offset": 0, "timestamp": 0}
    partition.take(SimpleNamespace(**place, key=sent.key, value=sent.value, headers=sent.headers), CLUSTER)  # type: ignore[arg-type]
    connection = Connection(travel.dsn)
    refill = Refill(await connection.raw(), travel.runtime.pipelines)
    refill._heard = partition.heard
    await refill._settle()
    await connection.close()
    assert await travel.rows("select state from runs") == [{"state": "running"}]


@pytest.mark.parametrize("config", [None, {"epochs": 3}])
async def test_a_client_that_repeats_its_key_after_a_refill_finds_its_run(travel: Travel, config: dict[str, Any] | None) -> None:
    async def ask() -> Answer:
        return await request_run(travel.ledger, travel.runtime.pipelines, tenant_id="acme", request_key="k1", config=config)

    first = await ask()
    await accepted_anew(travel)
    again = await ask()
    assert (again["result"], again["run_id"]) == ("seen", first["run_id"])


async def test_a_slot_that_fires_again_after_a_refill_finds_its_run(travel: Travel) -> None:
    timers = Timers(travel.runtime.pipelines, travel.ledger.calls, travel.clock, publish=lambda _: None, begin=lambda: None)
    due = datetime(2026, 1, 1, tzinfo=UTC)
    item = timers._request({"tenant_id": "acme", "schedule_id": uuid4(), "pipeline": "training", "request": {}, "due": due, "overlap": "merge"})
    item["create"] = True
    first = await travel.ledger.receive(item)
    await accepted_anew(travel)
    again = await travel.ledger.receive(item)
    assert (again["result"], again["run_id"]) == ("seen", first["run_id"])


async def refill(travel: Travel, entries: list[Entry], had: int = 0) -> None:
    """Write what Kafka knows beyond the first entries, which the ledger has from a backup."""
    raw = await connect(travel.dsn, timeout=30, name="test")
    try:
        base, first = fold(entries[:had]), travel.runtime.pipelines.first(TOY)
        await write(raw, Mended("acme", base, entries[:had]), [], 0, travel.runtime.pipelines)
        mended = mend("acme", base, entries[had:], lambda _: first, at=entries[-1].at, note={}, lost={})
        await write(raw, mended, [], had, travel.runtime.pipelines)
    finally:
        await raw.close()


async def test_the_warehouse_is_shown_the_trainings_that_a_refill_brings_back(travel: Travel) -> None:
    journal = Journal()
    over = journal.request()
    journal.fail(over)
    journal.request()
    await refill(travel, journal.entries)
    queued = await travel.rows("select q.run_id, r.state from projection_queue q join runs r using (run_id, version)")
    assert queued == [{"run_id": over.run_id, "state": "failed"}]


async def test_a_version_that_went_live_after_the_backup_is_known_with_the_index_that_was_built_before_it(travel: Travel) -> None:
    journal = Journal()
    run = journal.request()
    had = 0
    for output in ({}, {}, {"index_path": "indices/x", "model_path": "models/x"}, {"version": 3}):
        at = len(journal.entries)
        journal.done(run)
        kind = "model.deployed" if "version" in output else "index.built" if output else "other"
        journal.entries[at] = replace(journal.entries[at], data=journal.entries[at].data | {"output": output, "output_type": kind})
        had = had if kind == "model.deployed" else len(journal.entries)
    await refill(travel, journal.entries, had)
    [version] = await travel.rows("select number, state, model_path, index_path from versions")
    assert version == {"number": 3, "state": "live", "model_path": "models/x", "index_path": "indices/x"}
