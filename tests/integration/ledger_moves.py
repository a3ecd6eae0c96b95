"""A ledger driven by its own SQL functions, one move a call: what the runtime does, without the runtime."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg

from streams.folded import Comparable, Data
from streams.ledger.connection import connect
from streams.proof.check import Checked, check

STAGES = ("validate", "train", "index", "deploy", "warm")
FIRST = {"stage": "validate", "limit": None, "type": "training.requested"}
NAMESPACE = UUID(int=7)


class Moves:
    """One worker's moves. Times move on by a second with each."""

    def __init__(self, raw: "asyncpg.Connection[Any]") -> None:
        self.raw, self.worker = raw, uuid4()
        self.now = datetime.now(UTC)

    @classmethod
    async def open(cls, dsn: str) -> "Moves":
        moves = cls(await connect(dsn, timeout=30, name="test"))
        await moves.join()
        return moves

    async def join(self) -> None:
        await self.raw.execute("select join_slot($1, 1, 'test', 1, 3600)", self.worker)

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    async def request(self, tenant: str = "acme", *, publish: bool = False, worker: bool = True, **data: Any) -> Data:
        return await self._receive(self.asked(tenant, publish=publish, worker=worker, **data))

    def asked(self, tenant: str, *, publish: bool = False, worker: bool = True, **data: Any) -> Data:
        """The item of a request."""
        event = uuid4()
        item = {
            "kind": "request", "event_key": uuid4(), "event_id": event, "body": "00", "tenant": tenant, "create": True, "topic": "training.requested",
            "pipeline": "training", "version": "1", "run_id": uuid5(NAMESPACE, str(event)), "first": FIRST, "accepted_id": uuid4(),
            "data": {"tenant_id": tenant, **data}, "traceparent": "00-aa-bb-01", "publish": publish,
        }  # fmt: skip
        return item | ({"worker": self.worker} if worker else {})

    async def complete(self, tenant: str, job: str, *, failed: bool = False, worker: bool = True) -> Data:
        following = {stage: {"stage": after, "limit": None} for stage, after in pairwise(STAGES)}
        item = {
            "kind": "completion", "event_key": uuid4(), "event_id": uuid4(), "body": "00", "tenant": tenant, "topic": "training.completed",
            "engine": "ml", "job_id": job, "failed": failed, "first": FIRST, "finish_id": uuid4(), "next": following,
            "data": {"tenant_id": tenant, "job_id": job, "metrics": {"loss": 0.5, "seen": None}},
        }  # fmt: skip
        return await self._receive(item | ({"worker": self.worker} if worker else {}))

    async def claim(self) -> list[Data]:
        rows = await self.raw.fetch("select claim_steps($1, 10, '{}', null, '{}', $2)", self.worker, self.tick() + timedelta(days=1))
        return [row[0] for row in rows]

    async def commit(self, step: Data, outcome: str, **more: Any) -> Data:
        """The outcome of a step in hand. Its event goes out, as an executor's would."""
        item = self.outcome(step, outcome, **more)
        rows = await self.raw.fetch("select commit_steps($1, $2)", [item], self.tick())
        return dict(rows[0][0])

    def outcome(self, step: Data, outcome: str, **more: Any) -> Data:
        """The item of a commit."""
        at = STAGES.index(step["stage"])
        following = {"stage": STAGES[at + 1], "limit": None} if at + 1 < len(STAGES) else None
        item = {
            "run_id": step["run_id"], "tenant": step["tenant_id"], "stage": step["stage"], "round": step["round"], "worker": self.worker,
            "fence": step["fence"], "outcome": outcome, "next": following, "first": FIRST, "finish_id": uuid4(), "next_worker": self.worker,
            "effects": [],
        }  # fmt: skip
        return {key: value for key, value in (item | more).items() if value is not None}

    async def done(self, step: Data, **more: Any) -> Data:
        output = {"run_id": step["run_id"], "tenant_id": step["tenant_id"], "stage": step["stage"], "bare": {"x": None}}
        return await self.commit(step, "done", output=output, output_type=f"{step['stage']}.done", event_id=uuid4(), **more)

    async def wait(self, step: Data, job: str) -> Data:
        started = {"job_id": job, "tenant_id": step["tenant_id"], "x": None}
        facts = {"output": started, "output_type": "training.started", "event_id": uuid4(), "engine": "ml", "job_id": job}
        return await self.commit(step, "waiting", after=60, deadline=3600, completion_type="training.completed", **facts)

    async def whole(self, tenant: str = "acme", upto: str = "warm") -> Data:
        """A run that goes well as far as the end of `upto`; gives the last answer."""
        answer = await self.request(tenant)
        while True:
            step = answer["step"]
            if step["stage"] == "train":
                await self.wait(step, f"job-{step['run_id']}-{step['round']}")
                answer = await self.complete(tenant, f"job-{step['run_id']}-{step['round']}")
            else:
                answer = await self.done(step)
            if step["stage"] == upto:
                return answer

    async def cancel(self, run: str) -> Data:
        return dict(await self.raw.fetchval("select cancel_run($1, $2, $3, '{}', 'me', $4)", run, uuid4(), FIRST, self.tick()))

    async def reopen(self, run: str, stage: str | None) -> Data:
        return dict(await self.raw.fetchval("select reopen_run($1, $2, $3, null, 'me', $4)", run, stage, list(STAGES), self.tick()))

    async def step(self, run: str, stage: str) -> Data:
        return dict(await self.raw.fetchrow("select * from steps where run_id = $1 and stage = $2", run, stage) or {})

    async def run(self, run: str) -> Data:
        return dict(await self.raw.fetchrow("select * from runs where run_id = $1", run) or {})

    async def check(self, tenant: str | None = None) -> Checked:
        return await check(self.raw, tenant)

    async def _receive(self, item: Data) -> Data:
        return dict(await self.raw.fetchval("select receive($1, '[]', $2)", [item], self.tick()))


__all__ = ["STAGES", "Comparable", "Moves"]
