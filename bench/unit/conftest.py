"""What the unit benches work with: a loop like a worker's, a ledger on the bench's PostgreSQL, and items that are the same in every run."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from typing import Any
from uuid import uuid5

import pytest
import uvloop

from bench.ours import name
from bench.pipeline import PIPELINES
from schemas.cloudevents import body_hash
from schemas.context import NAMESPACE
from schemas.training import TrainingRequested
from streams.folded import Entry
from streams.items import request_item
from streams.ledger.connection import connect
from streams.ledger.ledger import Ledger
from streams.names import event_id, finish_event
from streams.outcome import Item, Leased
from streams.pipelines import Pipelines
from streams.settings import LedgerSettings, Settings

WORKER = uuid5(NAMESPACE, "bench")
MANY = 64
"""As many as a worker has in hand at a time; a full batch in a burst."""
_EMPTY = "truncate tenants, tenant_heads, pipeline_heads, journal, runs, causes, steps, inbox, outbox, effects, projection_queue cascade"
_TENANTS = """
with made as (insert into tenants (tenant_id) select unnest($1::text[]) returning tenant_id)
insert into tenant_heads (tenant_id) select tenant_id from made
"""
_JOURNAL = "select * from journal where tenant_id = $1 order by seq"
_EFFECT = {
    "key": "run:train:1", "command": "POST /stage/train", "status": 200, "request_sha256": "00" * 32, "reply_sha256": "ff" * 32,
    "reply": {"job_id": "job-1", "status": "completed"}, "sent_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


class Clerk:
    """Makes the items that inbox and executor would make, and has the ledger take them; each call waits until all of them are durable."""

    def __init__(self, dsn: str) -> None:
        self.pipelines = Pipelines(PIPELINES, Settings())
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.dsn, self._numbers = dsn, count()
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.raw = await connect(self.dsn, timeout=60, name="bench")
        await self.raw.execute(_EMPTY)
        self.ledger = Ledger(LedgerSettings(dsn=self.dsn))
        self.ledger.start()

    def close(self) -> None:
        self.runner.run(self.ledger.stop())
        self.runner.run(self.raw.close())
        self.runner.close()

    def requests(self, tenants: int) -> list[Item]:
        """One request each of tenants that nobody has seen yet."""
        ids = [name(next(self._numbers)) for _ in range(tenants)]
        self.runner.run(self.raw.execute(_TENANTS, ids))
        return [self._request(tenant, 0) for tenant in ids]

    def _request(self, tenant: str, number: int) -> Item:
        event = TrainingRequested(tenant_id=tenant)
        item = request_item(self.pipelines, PIPELINES[0], event, uuid5(NAMESPACE, f"{tenant} {number}"), "bench", body_hash(event.dump()))
        return item | {"worker": WORKER}

    def accept(self, requests: Sequence[Item]) -> list[Leased]:
        answers = self.runner.run(self._all(self.ledger.receive, requests))
        return [Leased.load(answer["step"]) for answer in answers]

    def outcome(self, step: Leased) -> Item:
        """The stage gave its event, and made one call that changes something."""
        stage = PIPELINES[0].by_name[step.stage]
        topic, following = stage.gives[0].topic, self.pipelines.next(PIPELINES[0], step.stage)
        return {
            "outcome": "done", "output": {"tenant_id": step.tenant_id, "run_id": str(step.run_id), "fingerprint": "0" * 64}, "output_type": topic,
            "event_id": event_id(step.run_id, step.stage, step.round, topic), "run_id": step.run_id, "tenant": step.tenant_id, "stage": step.stage,
            "round": step.round, "worker": WORKER, "fence": step.fence, "next": following, "next_worker": WORKER,
            "finish_id": None if following else finish_event(step.run_id, step.stage, step.round), "input_id": step.input_id, "traceparent": None,
            "effects": [_EFFECT],
        }  # fmt: skip

    def hand_over(self, outcomes: Sequence[Item]) -> list[Item]:
        answers = self.runner.run(self._all(self.ledger.hand_over, outcomes))
        assert all(answers), "the ledger left an outcome to commit_step"
        return answers

    def journal(self, runs: int) -> list[Entry]:
        """What a tenant's journal says after so many runs."""
        [request] = self.requests(1)
        tenant = request["tenant"]
        for number in range(runs):
            [step] = self.accept([self._request(tenant, number)])
            while "begun" in (answer := self.hand_over([item := self.outcome(step)])[0]):
                step = step.following(item["next"]["stage"], item, *answer["begun"])
        rows = self.runner.run(self.raw.fetch(_JOURNAL, tenant))
        return [Entry.load(row) for row in rows]

    async def _all(self, move: Callable[[Item], Awaitable[Any]], items: Sequence[Item]) -> list[Item]:
        return list(await asyncio.gather(*map(move, items)))


@pytest.fixture(scope="session")
def clerk() -> Iterator[Clerk]:
    clerk = Clerk(os.environ["BENCH_DSN"])
    yield clerk
    clerk.close()
