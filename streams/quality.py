"""Verdicts, baselines, incidents and allowances in the ledger (`streams.clients.quality.Quality` says what they are for).

The stages of the quality pipeline and the gate before training come through here; so do CLI, API and pages.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from schemas.quality import DqEvaluated
from streams import verdicts
from streams.clients.quality import Decide, LastVerdict, Recorded, TenantStanding
from streams.ledger.connection import Connection
from streams.ledger.ledger import Answer, Ledger
from streams.ledger.needed import needed
from streams.ledger.queries import queries
from streams.pipelines import Pipelines
from streams.requests import refused, request_run, wake
from streams.stage import TryAgain

log = structlog.get_logger(__name__)

PIPELINE, GATED = "quality", "training"
_BAD = ("fail", "error")
ASKED_AT_ONCE = 100
"""Tenants whose standing comes in one answer: taking it in holds the event loop."""


TROUBLE = ("fail", "error")
"""A check's status that somebody should look at."""


class LedgerQuality:
    """The tenants' standing over one connection; every call may be made twice."""

    def __init__(self, connection: Connection, ledger: Ledger, pipelines: Pipelines) -> None:
        self._connection, self._ledger, self._pipelines = connection, ledger, pipelines

    def now(self) -> datetime:
        return self._ledger.clock.now()

    async def standings(self, tenants: Sequence[str], hour: int) -> dict[str, TenantStanding]:
        found = {}
        for start in range(0, len(tenants), ASKED_AT_ONCE):
            for row in await self._rows("standings", list(tenants[start : start + ASKED_AT_ONCE]), hour):
                found[row["tenant_id"]] = TenantStanding(row["settings"], row["profile"] or {}, row["watched"], row["slow"], row["samples"])
        return found

    async def attempts(self, runs: Sequence[UUID], stage: str) -> dict[UUID, int]:
        return {row["run_id"]: row["attempt"] for row in await self._rows("attempts", list(runs), stage)}

    async def record(self, events: Sequence[DqEvaluated], decide: Decide) -> list[Recorded]:
        now = self.now()
        with needed():
            recorded = await verdicts.keep(self._connection, events, decide, now)
            await self._connection.fetch(_sql("wake"), [event.tenant_id for event in events], now)
            await wake(self._ledger)
        return recorded

    async def last_verdict(self, tenant_id: str) -> LastVerdict | None:
        rows = await self._rows("last_verdict", tenant_id, self.now())
        if not rows:
            return None
        row = rows[0]
        failed = [check["check"] for check in row["checks"] if check["status"] in _BAD]
        return LastVerdict(row["watched"], row["verdict"], failed, row["run_id"], row["at"], row["allowed"], row["gate"])

    async def ask_to_measure(self, tenant_id: str, training_run: UUID) -> bool:
        answer = await self._measure(tenant_id, f"gate:{training_run}")
        if answer["result"] == "seen" and (in_vain := (await self._rows("in_vain", tenant_id, training_run))[0][0]):
            answer = await self._measure(tenant_id, f"gate:{training_run}:{in_vain}")
        if answer["result"] == "refused" and answer["code"] != "unknown_pipeline":
            why = f"{answer['code']}: {answer['sentence']}"
            raise TryAgain(f"the data of {tenant_id} cannot be measured now ({why})", code="quality_unknown", free=True, waiting_for="quality")
        if answer["result"] == "seen":
            return not await self._rows("recorded", [UUID(answer["run_id"])])
        return bool(answer["result"] != "refused")

    async def _measure(self, tenant_id: str, key: str) -> Answer:
        with needed():
            return await request_run(self._ledger, self._pipelines, tenant_id=tenant_id, pipeline=PIPELINE, request_key=key, source="gate")

    async def let_through(self, tenants: Sequence[str], reason: str) -> dict[str, UUID]:
        with needed():
            return await let_through(self._ledger, self._pipelines, tenants, reason)

    async def _rows(self, name: str, *args: Any) -> list[Any]:
        with needed():
            return await self._connection.fetch(_sql(name), *args)


async def let_through(ledger: Ledger, pipelines: Pipelines, tenants: Sequence[str], reason: str) -> dict[str, UUID]:
    """Ask again for the trainings that the gate blocked, where that is the tenant's newest; once for each blocked run. Tenant -> new run."""
    runs = {}
    for row in await ledger.calls.fetch(_sql("blocked"), list(tenants)):
        blocked = row["run_id"]
        answer = await request_run(
            ledger,
            pipelines,
            tenant_id=row["tenant_id"],
            pipeline=GATED,
            request_key=f"quality:{blocked}",
            config=row["request"].get("model_config"),
            reason=f"{reason}; run {blocked} was blocked",
            source="quality",
        )
        if answer["result"] != "refused" and answer.get("run_id"):
            runs[row["tenant_id"]] = UUID(answer["run_id"])
    return runs


async def reconsider(connection: Connection, ledger: Ledger, pipelines: Pipelines) -> int:
    """Let through what the gate blocked while a good verdict or an allowance was on its way; how many trainings were asked for.

    Who records the verdict finds no blocked run yet, and who blocks the run has read the verdict before: this finds both, whoever died between.
    """
    found = await connection.fetch(_sql("passable"), ledger.clock.now())
    return len(await let_through(ledger, pipelines, [row["tenant_id"] for row in found], "the data is good or allowed by now"))


async def allow(ledger: Ledger, pipelines: Pipelines, tenant_id: str, *, reason: str, by: str, hold: timedelta) -> Answer:
    """Let a tenant train in spite of its verdict until the allowance expires; the blocked run is asked for again. `result`: allowed."""
    if not reason.strip() or not reason.isprintable() or len(reason) > 500:
        return refused("bad_field", fields={"reason": "a printable text of 1 to 500 characters"})
    now = ledger.clock.now()
    until = now + hold
    async with ledger.calls.transaction() as raw:
        if not await raw.fetchval("select lock_tenant($1)", tenant_id):
            return refused("unknown_tenant", tenant=tenant_id)
        await raw.execute(_sql("allow"), tenant_id, reason, by, now, until)
        await raw.fetchval(
            "select note($1, null, 'quality_allowed', $2, $3)", tenant_id, {"reason": reason, "by": by, "until": until.isoformat()}, now
        )
    runs = await let_through(ledger, pipelines, [tenant_id], f"allowed by {by}: {reason}"[:400])
    return {"result": "allowed", "tenant_id": tenant_id, "until": until, "run_id": runs.get(tenant_id)}


class QualityReader:
    """Questions of CLI, API and pages; nothing here changes a row."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def tenants(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Every tenant that was ever due, the most troubled first; suspended ones last, deleted ones not at all."""
        return await self._rows("tenants", limit)

    async def tenant(self, tenant_id: str) -> dict[str, Any] | None:
        """The newest verdict in full, what is wrong first; None before the first tick."""
        rows = await self._rows("tenant", tenant_id)
        return rows[0] | {"checks": sorted(rows[0]["checks"], key=_trouble)} if rows else None

    async def history(self, tenant_id: str, limit: int = 60) -> list[dict[str, Any]]:
        return await self._rows("history", tenant_id, limit)

    async def incidents(self, *, tenant: str | None = None, state: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        return await self._rows("incident_list", tenant, state, limit)

    async def timeline(self, tenant_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """What somebody was told about a tenant."""
        return await self._rows("timeline", tenant_id, limit)

    async def _rows(self, name: str, *args: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._connection.fetch(_sql(name), *args)]


def _trouble(check: dict[str, Any]) -> tuple[bool, int]:
    """The worst on top; what is well in its usual order."""
    return check["status"] not in TROUBLE, -("low", "medium", "high", "critical").index(check.get("severity") or "low")


async def tenant_settings(connection: Connection, tenant_id: str) -> dict[str, Any]:
    """What the tenant sets for itself."""
    return dict(await connection.value("select settings from tenants where tenant_id = $1", tenant_id) or {})


def _sql(name: str) -> str:
    return queries("quality.sql")[name]
