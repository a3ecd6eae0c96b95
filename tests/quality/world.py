"""A worker of the real pipelines on a ledger and a warehouse of its own: real stages, real judge, Kafka played by a list."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from agents import QUALITY
from schemas.training import TrainingRequested, TrainingValidated
from streams.alerts import Alerts
from streams.clients.monitoring import Monitoring
from streams.ledger.connection import Connection
from streams.pipelines import Pipelines
from streams.quality import LedgerQuality, QualityReader
from streams.requests import request_run
from streams.resident import ResidentChild
from streams.settings import QualitySettings, Settings, WarehouseSettings
from streams.stage import Pipeline, Retry, stage
from tests.quality.data import NOW
from tests.travel import Travel, travelling


@stage(retry=Retry(attempts=3, every=timedelta(seconds=1)))
async def validate(event: TrainingRequested, use: Any) -> TrainingValidated:
    """Training with the gate and nothing behind it."""
    from agents.gate import pass_gate

    await pass_gate(event, use)
    return event.then(TrainingValidated, bucket="b", prefix="p", files=1, bytes=1, fingerprint="f")


PIPELINES = (Pipeline("training", (validate,), version="1"), QUALITY)


class Beside:
    """The judge in a thread of this process: Great Expectations is imported once for all tests. `tests/unit/test_resident.py` has the real child."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # as in the real child: the library is made for one call at a time

    async def run(self, function: Any, *args: Any, timeout: float) -> Any:
        async with self._turn:
            return await asyncio.to_thread(function, *args)


class World(Travel):
    """A worker with the quality pipeline, and the clock in the test's hands."""

    monitoring: Any

    def __init__(self, ledger: str, warehouse: str, monitoring: Monitoring, **quality: Any) -> None:
        self.use = SimpleNamespace(monitoring=monitoring)
        super().__init__(ledger, PIPELINES, self.use)
        self.clock.set(NOW, timedelta())
        quality = {"lock_timeout": 0.3, "statement_timeout": 5} | quality
        self.use.settings = Settings(
            ledger=self.settings.ledger,
            warehouse=WarehouseSettings.model_validate({"dsn": warehouse}),
            quality=QualitySettings.model_validate(quality),
        )
        self.monitoring = monitoring
        self.pipelines: Pipelines = self.runtime.pipelines

    async def tick(self, *tenants: str, key: str | None = None) -> None:
        """Ask for a verdict on each tenant and wait for it."""
        before = {run["run_id"] for run in await self.runs()}
        for tenant in tenants:
            answer = await request_run(self.ledger, self.pipelines, tenant_id=tenant, pipeline="quality", request_key=key)
            assert answer["result"] != "refused", answer
        await self.until(
            lambda runs: (
                len({run["run_id"] for run in runs if run["pipeline"] == "quality"} - before) >= len(tenants)
                and all(run["finished_at"] for run in runs if run["pipeline"] == "quality")
            ),
            within=90,
        )

    async def train(self, tenant: str) -> UUID:
        answer = await request_run(self.ledger, self.pipelines, tenant_id=tenant)
        return UUID(answer["run_id"])

    async def run(self, run_id: UUID, *, state: str, within: float = 60) -> dict[str, Any]:
        """The run as soon as it is in this state."""
        runs = await self.until(lambda runs: [run for run in runs if run["run_id"] == run_id and run["state"] == state], within=within)
        return next(run for run in runs if run["run_id"] == run_id)

    async def verdict(self, tenant: str) -> str | None:
        last = await self.use.quality.last_verdict(tenant)
        return last.verdict if last else None

    def later(self, hours: float) -> None:
        self.clock.ahead += timedelta(hours=hours)


@asynccontextmanager
async def open_world(world: World, judge: ResidentChild | None = None) -> AsyncIterator[World]:
    """The worker at work, with its judge; alerts are delivered when the test says so."""
    async with AsyncExitStack() as stack:
        connection, telling, asking = (Connection(world.dsn, name=f"test-{n}") for n in range(3))
        for each in (connection, telling, asking):
            stack.push_async_callback(each.close)
        world.use.judge = Beside() if judge is None else judge
        world.use.quality = LedgerQuality(connection, world.ledger, world.pipelines)
        world.alerts = Alerts(telling, world.monitoring, world.clock, kept=timedelta(days=180))  # type: ignore[attr-defined]
        world.reader = QualityReader(asking)  # type: ignore[attr-defined]
        await stack.enter_async_context(travelling(world))
        yield world
