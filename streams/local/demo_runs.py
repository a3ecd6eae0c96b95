"""The demo's requests as any publisher would send them, and the runs they became, followed in the ledger."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.states import RunState, StepState
from schemas.training import IndexBuilt, TrainingRequested
from streams.ledger.connection import Connection
from streams.ledger.reader import Reader
from streams.ledger.rows import RunDetail, Step

EVERY = 0.1
Show = Callable[[Sequence["Watched"]], None]


@dataclass(slots=True)
class Watched:
    """A tenant's request on Kafka, and the run that came of it."""

    tenant: str
    partition: int
    offset: int
    topic: str = TrainingRequested.topic
    run_id: UUID | None = None
    detail: RunDetail | None = None
    ended: float | None = None
    """When we saw it over, on the monotonic clock."""

    @property
    def over(self) -> bool:
        return self.detail is not None and RunState(self.detail.run.state).terminal

    @property
    def succeeded(self) -> bool:
        return self.detail is not None and self.detail.run.state == RunState.SUCCEEDED

    @property
    def served(self) -> bool:
        return self.detail is not None and self.detail.run.state in {RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_WARNINGS}

    @property
    def step(self) -> Step | None:
        """The newest one."""
        return self.detail.steps[-1] if self.detail and self.detail.steps else None

    @property
    def seconds(self) -> float:
        """From the request to the end of the run, or to now."""
        if self.detail is None:
            return 0
        run = self.detail.run
        last = self.step
        if run.finished_at is not None:
            return (run.finished_at - run.requested_at).total_seconds()
        return 0 if last is None else (last.ready_at - run.requested_at).total_seconds() + (last.queued or 0) + (last.seconds or 0)

    @property
    def index(self) -> IndexBuilt | None:
        for step in self.detail.steps if self.detail else ():
            if step.output_type == IndexBuilt.topic and step.output is not None:
                return IndexBuilt.model_validate(step.output)
        return None

    @property
    def trouble(self) -> list[str]:
        """Why it is not a plain success: a code and a sentence each."""
        if self.detail is None or self.succeeded:
            return []
        run = self.detail.run
        skipped = [f"{step.code}: {step.error}" for step in self.detail.steps if step.state == StepState.SKIPPED]
        return skipped if run.reason is None else [f"{run.code}: {run.reason}", *skipped]


async def publish(kafka: str, tenants: Sequence[str], topic: str = TrainingRequested.topic) -> list[Watched]:
    """A bare `{"tenant_id": …}` for each, as anybody with a Kafka client would."""
    from aiokafka import AIOKafkaProducer  # loaded while the servers start

    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        placed = [await producer.send_and_wait(topic, b'{"tenant_id": "%s"}' % tenant.encode()) for tenant in tenants]
    finally:
        await producer.stop()
    return [Watched(tenant, place.partition, place.offset, topic) for tenant, place in zip(tenants, placed, strict=True)]


async def follow(ledger: str, runs: Sequence[Watched], show: Show) -> None:
    """Show how the runs get on, until all are over."""
    connection = Connection(ledger, name="tidemill-demo")
    reader = Reader(connection)
    try:
        while True:
            for run in runs:
                if not run.over:
                    await _look(reader, run)
            show(runs)
            if all(run.over for run in runs):
                return
            await asyncio.sleep(EVERY)
    finally:
        await connection.close()


async def _look(reader: Reader, run: Watched) -> None:
    if run.run_id is None:
        run.run_id = await _find(reader, run)
    if run.run_id is not None:
        run.detail = await reader.run(run.run_id)
    if run.over:
        run.ended = time.monotonic()


async def _find(reader: Reader, wanted: Watched) -> UUID | None:
    """The run that names the request's place on Kafka: a request may also be merged into a run that was there before."""
    for run in await reader.runs(tenant=wanted.tenant, limit=3):
        for happening in await reader.events(run.run_id):
            if (happening.topic, happening.partition, happening.offset) == (wanted.topic, wanted.partition, wanted.offset):
                return run.run_id
    return None
