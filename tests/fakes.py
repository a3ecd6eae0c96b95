"""The neighbours as small fakes: enough for a pipeline to travel in memory, each with what it was asked for the tests to look at."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from schemas.quality import DqEvaluated
from schemas.training import TrainingConfig
from streams.clients.inference import Conflict, Health, taken
from streams.clients.ml_engine import JobStatus
from streams.clients.objects import Object, ObjectMissing
from streams.clients.quality import Decide, LastVerdict, Recorded, TenantStanding
from streams.clients.versions import Version
from streams.step import Step, current


class FakeMLEngine:
    """Takes every job; its key makes doing twice like doing once. `finish` ends one."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobStatus] = {}
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[str] = []

    async def train(self, *, tenant_id: str, bucket: str, path: str, config: TrainingConfig | None, output_path: str) -> str:
        return self._start(tenant_id, bucket=bucket, path=path, config=config, output_path=output_path)

    async def build_index(self, *, tenant_id: str, model_path: str, output_path: str, nlist: int | None = None) -> str:
        return self._start(tenant_id, model_path=model_path, output_path=output_path, nlist=nlist)

    def _start(self, tenant_id: str, **asked: Any) -> str:
        step = current.get()
        job_id = f"job-{hashlib.sha256(step.key.encode()).hexdigest()[:12]}" if step else f"job-{len(self.jobs) + 1}"
        if job_id not in self.jobs:
            self.asked.append({"tenant_id": tenant_id, **asked})
            self.jobs[job_id] = JobStatus(job_id=job_id, tenant_id=tenant_id, status="pending")
        return job_id

    def finish(self, job_id: str, status: str = "completed", /, **fields: Any) -> None:
        self.jobs[job_id] = self.jobs[job_id].model_copy(update={"status": status, **fields})

    async def job(self, job_id: str) -> JobStatus | None:
        return self.jobs.get(job_id)

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)


class FakeInference:
    """Serves one version a tenant, with compare-and-set; versions named in `sick` never become healthy."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.files: dict[tuple[str, int], tuple[str, str]] = {}
        """What lies under a number, where that is known."""
        self.sick: set[int] = set()
        self.deployed: list[tuple[str, int, str]] = []
        self.warmed: list[tuple[str, int, int]] = []

    async def deploy(
        self, *, tenant_id: str, version: int, model_path: str, index_path: str, expected_version: int, config: dict[str, Any], key: str | None = None
    ) -> Conflict | None:
        live, files = self.live.get(tenant_id, 0), (model_path, index_path)
        same = self.files.get((tenant_id, version), files) == files
        if live == version and same:
            return None
        if live != expected_version:
            return Conflict(live)
        if not same:
            raise taken(tenant_id, version)
        self.live[tenant_id], self.files[tenant_id, version] = version, files
        self.deployed.append((tenant_id, version, key or "step"))
        return None

    async def health(self, tenant_id: str, version: int) -> Health:
        if self.live.get(tenant_id) != version:
            return Health.UNKNOWN
        return Health.UNHEALTHY if version in self.sick else Health.HEALTHY

    async def warm(self, tenant_id: str, version: int, top_k: int) -> int:
        self.warmed.append((tenant_id, version, top_k))
        return top_k


class FakeMonitoring:
    """Keeps each transition of an incident once."""

    def __init__(self) -> None:
        self.alerts: dict[tuple[UUID, str], dict[str, Any]] = {}

    async def raise_alert(self, *, incident: UUID, transition: str, **alert: Any) -> None:
        self.alerts.setdefault((incident, transition), alert)


class FakeObjects:
    """Buckets as one dictionary: (bucket, key) → bytes; `writes` keeps the order."""

    def __init__(self, buckets: tuple[str, ...] = ("embeddings-training-data", "embeddings-models", "embeddings-indices")) -> None:
        self.buckets = set(buckets)
        self.files: dict[tuple[str, str], bytes] = {}
        self.writes: list[str] = []
        self.modified = datetime.now(UTC)
        """When all of it was written."""

    async def bucket_exists(self, bucket: str) -> bool:
        return bucket in self.buckets

    async def list(self, bucket: str, prefix: str) -> AsyncIterator[Object]:
        for where, key in sorted(self.files):
            if where == bucket and key.startswith(prefix):
                yield Object(key, len(self.files[where, key]), hashlib.md5(self.files[where, key]).hexdigest(), self.modified)

    async def download(self, bucket: str, key: str, path: Path, *, sha256: str | None = None, limit: int = 1 << 30) -> None:
        await asyncio.to_thread(path.write_bytes, await self.get(bucket, key, limit=limit))

    async def upload(self, bucket: str, key: str, path: Path) -> None:
        await self.put(bucket, key, await asyncio.to_thread(path.read_bytes))

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        self.files[bucket, key] = data
        self.writes.append(key)

    async def get(self, bucket: str, key: str, *, limit: int) -> bytes:
        if (bucket, key) not in self.files:
            raise ObjectMissing(f"s3://{bucket}/{key} is not there", code="object_missing")
        return self.files[bucket, key]

    async def peek(self, bucket: str, key: str, count: int) -> bytes:
        data = await self.get(bucket, key, limit=1 << 30)
        return data[:count] if count > 0 else data[count:]

    async def delete_prefix(self, bucket: str, prefix: str) -> int:
        gone = [at for at in self.files if at[0] == bucket and at[1].startswith(prefix)]
        for at in gone:
            del self.files[at]
        return len(gone)


class FakeVersions:
    """The tenants' counters and live pointers."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Version] = {}
        self._numbers: dict[tuple[str, Any], int] = {}

    def _number(self, tenant_id: str, purpose: Any) -> int:
        return self._numbers.setdefault((tenant_id, purpose), sum(1 for each in self._numbers if each[0] == tenant_id) + 1)

    async def reserve(self, tenant_id: str, run_id: UUID, round: int, *, model_path: str, index_path: str) -> Version:
        number = self._number(tenant_id, (run_id, round))
        return self.rows.setdefault((tenant_id, number), Version(tenant_id, number, run_id, model_path, index_path, "reserved"))

    async def live(self, tenant_id: str) -> Version | None:
        return next((row for row in self.rows.values() if row.tenant_id == tenant_id and row.state == "live"), None)

    async def mark_live(self, tenant_id: str, number: int) -> None:
        if (before := await self.live(tenant_id)) and before.number != number:
            self.rows[tenant_id, before.number] = before._replace(state="retired")
        self.rows[tenant_id, number] = self.rows[tenant_id, number]._replace(state="live")

    async def reject(self, tenant_id: str, number: int, reason: str) -> None:
        self.rows[tenant_id, number] = self.rows[tenant_id, number]._replace(state="rejected")

    async def restore(self, tenant_id: str, *, instead_of: int) -> Version | None:
        live = await self.live(tenant_id)
        if live is None:
            return None
        number = self._number(tenant_id, instead_of)
        return self.rows.setdefault((tenant_id, number), live._replace(number=number, run_id=None, state="reserved"))


class FakeQuality:
    """Every tenant's last verdict is `verdict` (a pass, unless a test says otherwise; None: never measured)."""

    def __init__(self) -> None:
        self.verdict: LastVerdict | None = LastVerdict(True, "pass", [], uuid4(), datetime.now(UTC))
        self.asked: list[tuple[str, UUID]] = []
        self.can_measure = True

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def standings(self, tenants: Sequence[str], hour: int) -> dict[str, TenantStanding]:
        return {}

    async def attempts(self, runs: Sequence[UUID], stage: str) -> dict[UUID, int]:
        return {}

    async def record(self, events: Sequence[DqEvaluated], decide: Decide) -> list[Recorded]:
        return [Recorded([], len(decide(event, {}, self.now()))) for event in events]

    async def last_verdict(self, tenant_id: str) -> LastVerdict | None:
        return self.verdict

    async def ask_to_measure(self, tenant_id: str, training_run: UUID) -> bool:
        self.asked.append((tenant_id, training_run))
        return self.can_measure

    async def let_through(self, tenants: Sequence[str], reason: str) -> dict[str, UUID]:
        return {}


class InlineCpu:
    """Runs the function here and now: no child, no limits."""

    free = 1

    async def run(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:  # as the real one
        return function(*args)


def a_step(stage: str, **changes: Any) -> Step:
    """A step in hand whose lease is held."""
    known: dict[str, Any] = {
        "run_id": uuid4(),
        "tenant_id": "acme",
        "pipeline": "training",
        "stage": stage,
        "round": 1,
        "attempt": 1,
        "fence": 7,
        "lease_held": lambda: True,
        "deadline": float("inf"),
    }
    return Step(**known | changes)


@contextmanager
def in_hand(step: Step) -> Any:
    """`step` as the one being executed."""
    token = current.set(step)
    try:
        yield step
    finally:
        current.reset(token)
