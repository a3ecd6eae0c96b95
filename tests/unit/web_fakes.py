"""A ledger that answers from memory and dependencies that are as well as a test says, for the web application's tests."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from agents import PIPELINES
from streams.clock import Clock
from streams.hold import Hold
from streams.ledger.ledger import Answer, Ledger
from streams.ledger.reader import NotFound, Reader
from streams.ledger.rows import Backlog, Cause, DeadLetter, Effect, Happening, ModelVersion, Run, RunDetail, Standing, Step, Sweep, Tenant, WorkerSeen
from streams.pipelines import Pipelines
from streams.settings import Settings
from streams.table import States
from streams.web import Parts
from streams.web.health import Health, Unwell
from streams.web.tail import Journal

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def a_run(**changes: Any) -> Run:
    """A run of acme that goes on."""
    run = Run(
        uuid4(), "acme", "training", "running", "train", NOW, None, None, None,
        code=None, causes=1, warnings=0, started_at=NOW, pipeline_version="1", version=7,
    )  # fmt: skip
    return replace(run, **changes)


def a_step(**changes: Any) -> Step:
    """A step that is done."""
    step = Step(
        "validate", "done", 1, 1, 0, NOW, NOW, None, NOW + timedelta(seconds=2), NOW, None, 0.0, 2.0, None, None, None, None, None, None, None,
        "training.requested", {"tenant_id": "acme"}, "training.validated", {"files": 3},
    )  # fmt: skip
    return replace(step, **changes)


class FakeReader:
    """The reader's questions, answered from lists."""

    def __init__(self) -> None:
        self.all_runs: list[Run] = []
        self.steps: list[Step] = []
        self.effects: list[Effect] = []
        self.letters: list[DeadLetter] = []
        self.outbox = 0
        self.away: Exception | None = None

    def _ask(self) -> None:
        if self.away:
            raise self.away

    async def runs(self, *, tenant: str | None = None, state: str | None = None, pipeline: str | None = None, limit: int = 50) -> list[Run]:
        self._ask()
        fits = [r for r in self.all_runs if tenant in (None, r.tenant_id) and state in (None, r.state) and pipeline in (None, r.pipeline)]
        return fits[:limit]

    async def run(self, run_id: UUID) -> RunDetail:
        self._ask()
        for run in self.all_runs:
            if run.run_id == run_id:
                return RunDetail(run, {}, self.steps, [Cause(uuid4(), NOW, {"reason": "<b>why</b>"})], self.effects)
        raise NotFound("unknown_run", f"there is no run {run_id}; `tidemill runs` lists what there is")

    async def events(self, run_id: UUID) -> list[Happening]:
        return [Happening(NOW, 1, "accepted", "run.accepted", uuid4(), None, None, None, None, {"run_id": str(run_id)})]

    async def tenants(self, limit: int = 1000) -> list[Tenant]:
        self._ask()
        names = sorted({run.tenant_id for run in self.all_runs})
        return [await self.tenant(name) for name in names]

    async def tenant(self, tenant_id: str) -> Tenant:
        self._ask()
        own = [run for run in self.all_runs if run.tenant_id == tenant_id]
        if not own:
            raise NotFound("unknown_tenant", f"there is no tenant {tenant_id}")
        return Tenant(tenant_id, None, "active", None, NOW, own[0].run_id, own[0].state, NOW, None, 3, NOW)

    async def why_tenant(self, tenant_id: str) -> dict[str, Any]:
        facts: dict[str, Any] = {key: [] for key in ("open", "pauses", "schedules", "decisions")}
        return facts | {"tenant_id": tenant_id, "status": "active", "now": NOW, "arrivals": None}

    async def versions(self, tenant_id: str) -> list[ModelVersion]:
        return [ModelVersion(3, "live", None, 1, "models/acme/", "indices/acme/", None, None, NOW, NOW, None)]

    async def dead_letters(self, **_: Any) -> list[DeadLetter]:
        return self.letters

    async def workers(self) -> list[WorkerSeen]:
        self._ask()
        return [WorkerSeen(1, uuid4(), "host", 42, NOW, None, True, 9.0, 1)]

    async def gaps(self) -> list[Any]:
        return []

    async def backlog(self) -> Backlog:
        self._ask()
        return Backlog(self.outbox, 2.5, 0, len(self.letters), 0, 0, 0)

    async def hold(self, most: int) -> Hold | None:
        self._ask()
        return Hold("outbox_full", "look at Kafka") if self.outbox > most else None

    async def set_back(self) -> str | None:
        return None

    async def sweep(self) -> Sweep:
        self._ask()
        return Sweep(None, 7, 700, 2, 1)

    async def run_counts(self, pipeline: str | None = None) -> dict[str, int]:
        self._ask()
        return {run.state: 1 for run in self.all_runs}

    async def standing(self, pipeline: str) -> Standing:
        self._ask()
        return Standing(False, None, None, None, None, None)


class FakeLedger:
    """Answers every request the same way, and remembers it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls = self
        self.asked: list[dict[str, Any]] = []
        self.says: Answer = {"result": "run", "run_id": str(uuid4()), "outbox": []}
        self.away: Exception | None = None

    async def receive(self, item: dict[str, Any]) -> Answer:
        self.asked.append(item)
        return self.says

    async def fetch(self, sql: str, *_: Any) -> list[Any]:
        return [{"pipeline": "training", "stage": "train", "version": 7}] if "from runs" in sql else []

    async def cancel(self, run_id: UUID, **_: Any) -> Answer:
        if self.away:
            raise self.away
        return self.says


class FakeJournal:
    """A tenant's journal of so many entries; tells the stream to stop once all were read."""

    def __init__(self, entries: int) -> None:
        nothing = dict.fromkeys(("run_id", "topic", "event_id", "causation", "data"))
        self.entries: list[dict[str, Any]] = [{**nothing, "seq": number, "at": NOW, "kind": "step"} for number in range(1, entries + 1)]
        self.open = 0
        self.on_end: Callable[[], None] = lambda: None

    async def head(self, tenant: str) -> int | None:
        return len(self.entries) if tenant == "acme" else None

    async def after(self, tenant: str, seq: int) -> list[dict[str, Any]]:
        found = self.entries[seq : seq + 2]
        if not found:
            self.on_end()
        return found


class World:
    """Everything the web application leans on, in a test's hands."""

    def __init__(self) -> None:
        self.reader, self.ledger, self.journal = FakeReader(), FakeLedger(), FakeJournal(5)
        self.sick: dict[str, str] = {}
        self.table: dict[str, States] | None = {}

    def parts(self) -> Parts:
        async def check(name: str) -> None:
            if name in self.sick:
                raise Unwell(self.sick[name])

        needed = {name: (lambda name=name: check(name)) for name in ("kafka", "ledger", "s3", "table")}
        others = {name: (lambda name=name: check(name)) for name in ("ml_engine", "inference", "monitoring")}
        parts = Parts(
            pipelines=Pipelines(PIPELINES, Settings()),
            reader=cast(Reader, self.reader),
            ledger=cast(Ledger, self.ledger),
            journal=cast(Journal, self.journal),
            health=Health(needed, others, secrets=["hunter2"]),
            states=lambda tenant: None if self.table is None else self.table.get(tenant, {}),
        )
        self.journal.on_end = parts.stopping.set
        return parts
