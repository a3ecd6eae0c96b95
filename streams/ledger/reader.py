"""The reading side of the ledger: every question that CLI, API and pages ask, over one connection; nothing here changes a row."""

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from streams.clock import Clock
from streams.hold import Hold, hold
from streams.ledger.connection import Connection
from streams.ledger.queries import queries
from streams.ledger.rows import (
    Backfill,
    Backlog,
    Cause,
    DeadLetter,
    DeadRecord,
    Effect,
    Gap,
    Happening,
    ModelVersion,
    Pause,
    Run,
    RunDetail,
    Schedule,
    ScheduleChange,
    Slot,
    Standing,
    Step,
    Sweep,
    Tenant,
    WorkerSeen,
)

_HEX = frozenset("0123456789abcdef")
R = TypeVar("R")


class NotFound(Exception):
    """What was asked for is not in the ledger, or more than one fits: a code and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


class Reader:
    """Questions to the ledger and their typed answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def clock(self) -> Clock:
        """A clock set by the ledger's."""
        row = (await self._fetch("now"))[0]
        clock = Clock()
        clock.set(row["now"], row["ahead"])
        return clock

    async def runs(self, *, tenant: str | None = None, state: str | None = None, pipeline: str | None = None, limit: int = 50) -> list[Run]:
        """The newest runs first."""
        return await self._all(Run, "runs", tenant, state, pipeline, limit)

    async def runs_failed(self, code: str, since: Any) -> list[Run]:
        """Runs that ended with this code since then, and that no newer run of their tenant made pointless."""
        return await self._all(Run, "runs_failed", code, since)

    async def find_run(self, text: str) -> UUID:
        """The run with this id, or the only one whose id begins so."""
        return await self._find(text, "run", "runs_between", "tidemill runs")

    async def run(self, run_id: UUID) -> RunDetail:
        """A run with its steps, causes and effects."""
        rows = await self._fetch("run", run_id)
        if not rows:
            raise _unknown("run", str(run_id), "tidemill runs")
        facts = dict(rows[0])
        request = facts.pop("request")
        return RunDetail(
            Run(**facts),
            request,
            steps=await self._all(Step, "steps", run_id),
            causes=await self._all(Cause, "causes", run_id),
            effects=await self._all(Effect, "effects", run_id),
        )

    async def why(self, run_id: UUID) -> dict[str, Any]:
        """All that can keep a run from going on (`streams/why.py` makes a sentence of it)."""
        rows = await self._fetch("why", run_id)
        if not rows:
            raise _unknown("run", str(run_id), "tidemill runs")
        return dict(rows[0])

    async def why_tenant(self, tenant_id: str) -> dict[str, Any]:
        """What runs for a tenant, when it runs next, and what came of the last times (`streams/why.py` makes sentences of it)."""
        tenant, clock = await self.tenant(tenant_id), await self.clock()
        arrivals = await self._fetch("arrival", tenant_id)
        return {
            "tenant_id": tenant_id,
            "status": tenant.status,
            "now": clock.now(),
            "open": [await self.why(run["run_id"]) for run in await self._fetch("open_runs", tenant_id)],
            "pauses": [dict(row) for row in await self._fetch("pauses_of", tenant_id)],
            "schedules": [dict(row) for row in await self._fetch("covering", tenant_id)],
            "arrivals": dict(arrivals[0]) if arrivals else None,
            "decisions": [dict(row) for row in await self._fetch("arrival_decisions", tenant_id, 20)],
        }

    async def events(self, run_id: UUID) -> list[Happening]:
        """What happened to a run, in order."""
        return await self._all(Happening, "events", run_id)

    async def tenants(self, limit: int = 1000) -> list[Tenant]:
        return await self._all(Tenant, "tenants", None, limit)

    async def tenant(self, tenant_id: str) -> Tenant:
        found = await self._all(Tenant, "tenants", tenant_id, 1)
        if not found:
            raise _unknown("tenant", tenant_id, "tidemill tenants list")
        return found[0]

    async def tenant_facts(self, tenant_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A tenant's labels, and its own settings as they were set."""
        rows = await self._fetch("tenant_facts", tenant_id)
        if not rows:
            raise _unknown("tenant", tenant_id, "tidemill tenants list")
        return rows[0]["labels"], rows[0]["settings"]

    async def versions(self, tenant_id: str) -> list[ModelVersion]:
        """All model versions of a tenant that exists."""
        await self.tenant(tenant_id)
        return await self._all(ModelVersion, "versions", tenant_id)

    async def dead_letters(
        self, *, state: str | None = "open", tenant: str | None = None, code: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """What could not be used, newest first."""
        return await self._all(DeadLetter, "dead_letters", state, tenant, code, limit)

    async def find_dead_letter(self, text: str) -> UUID:
        """The dead letter with this id, or the only one whose id begins so."""
        return await self._find(text, "dead letter", "dead_letters_between", "tidemill dead list")

    async def dead_letter(self, letter_id: UUID) -> DeadRecord:
        rows = await self._fetch("dead_letter", letter_id)
        if not rows:
            raise _unknown("dead letter", str(letter_id), "tidemill dead list")
        facts = dict(rows[0])
        raw = {name: facts.pop(name) for name in ("key", "value", "sha256", "headers", "cluster", "timestamp_ms")}
        raw |= {"key": raw["key"] or b"", "value": raw["value"] or b"", "headers": [(name, text) for name, text in raw["headers"]]}
        return DeadRecord(DeadLetter(**facts), **raw)

    async def workers(self) -> list[WorkerSeen]:
        return await self._all(WorkerSeen, "workers")

    async def gaps(self) -> list[Gap]:
        """Open gaps."""
        return await self._all(Gap, "gaps")

    async def backlog(self) -> Backlog:
        return (await self._all(Backlog, "backlog"))[0]

    async def set_back(self) -> str | None:
        """Why nothing may change now, in a sentence: the ledger was lost or set back; as a rule None."""
        return next((row["reason"] for row in await self._fetch("set_back")), None)

    async def hold(self, most: int) -> Hold | None:
        """Why nothing new may be asked for, with at most so many events waiting for Kafka; as a rule None."""
        return await hold(self._connection.fetch, most)

    async def sweep(self) -> Sweep:
        return (await self._all(Sweep, "sweep"))[0]

    async def run_counts(self, pipeline: str | None = None) -> dict[str, int]:
        """How many runs are in each state."""
        return {row["state"]: row["runs"] for row in await self._fetch("run_counts", pipeline)}

    async def standing(self, pipeline: str) -> Standing:
        [found] = await self._all(Standing, "standing", pipeline)
        return found

    async def schedules(self, *, tenant: str | None = None, limit: int = 1000) -> list[Schedule]:
        """Those for everybody first, then by name; or a tenant's own."""
        return await self._all(Schedule, "schedules", None, tenant, limit)

    async def schedule_count(self, tenant: str | None = None) -> int:
        return int((await self._fetch("schedule_count", tenant))[0][0])

    async def schedule(self, name: str) -> Schedule:
        found = await self._all(Schedule, "schedules", name, None, 1)
        if not found:
            raise _unknown("schedule", name, "tidemill schedules list")
        return found[0]

    async def slots(self, schedule_id: UUID, limit: int = 50) -> list[Slot]:
        """What became of a schedule's last due times."""
        return (await self.slots_of([schedule_id], limit))[schedule_id]

    async def slots_of(self, schedule_ids: Sequence[UUID], limit: int) -> dict[UUID, list[Slot]]:
        """The same for many schedules at once."""
        found: dict[UUID, list[Slot]] = {each: [] for each in schedule_ids}
        for row in await self._fetch("slots", list(schedule_ids), limit):
            facts = dict(row)
            found[facts.pop("schedule_id")].append(Slot(**facts))
        return found

    async def schedule_changes(self, name: str, limit: int = 50) -> list[ScheduleChange]:
        return await self._all(ScheduleChange, "schedule_changes", name, limit)

    async def pauses(self, *, past: bool = False, limit: int = 1000) -> list[Pause]:
        """Who begins nothing now; with `past` also who did not."""
        return await self._all(Pause, "pauses", past, limit)

    async def backfills(self, backfill_id: UUID | None = None, limit: int = 100) -> list[Backfill]:
        """The newest first; or the one of this id."""
        return await self._all(Backfill, "backfills", backfill_id, limit)

    async def find_backfill(self, text: str) -> UUID:
        """The backfill with this id, or the only one whose id begins so."""
        return await self._find(text, "backfill", "backfills_between", "tidemill backfill list")

    async def _find(self, text: str, what: str, query: str, where: str) -> UUID:
        digits = text.strip().lower().replace("-", "")
        if not digits or len(digits) > 32 or not _HEX.issuperset(digits):
            raise _unknown(what, text, where)
        found = await self._fetch(query, UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
        if not found:
            raise _unknown(what, text, where)
        if len(found) > 1:
            some = ", ".join(str(row["id"])[:13] for row in found)
            raise NotFound(f"ambiguous_{what.replace(' ', '_')}", f"more than one {what} begins with {text} ({some} …); give more of the id")
        return UUID(bytes=found[0]["id"].bytes)

    async def _fetch(self, query: str, *args: Any) -> list[Any]:
        return await self._connection.fetch(queries()[query], *args)

    async def _all(self, kind: type[R], query: str, *args: Any) -> list[R]:
        return [kind(**row) for row in await self._fetch(query, *args)]


def _unknown(what: str, text: str, where: str) -> NotFound:
    shown = text if text.isprintable() and len(text) <= 80 else "that name"
    return NotFound(f"unknown_{what.replace(' ', '_')}", f"there is no {what} {shown}; `{where}` lists what there is")
