"""Incidents in the ledger: something is wrong from its first sign until it is well again, whatever looked at it (data quality, absence)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from schemas.context import NAMESPACE
from streams.clients.quality import Change, IncidentState
from streams.ledger.queries import queries


async def carry_out(raw: Any, tenant_id: str, run_id: UUID | None, change: Change, now: datetime) -> None:
    """Write what changes about one check's incident, under the tenant's lock."""
    if change.after is not None:
        after, sql = change.after, queries("quality.sql")
        values = (after.id, tenant_id, change.check, after.open, after.severity, change.title, change.details, now, after.calm, after.flaps)
        await raw.execute(sql["put_incident"], *values)
        if change.kind is not None:
            number = 1 + await raw.fetchval(sql["transitions"], after.id)
            item = {
                "incident": str(after.id),  # asyncpg's UUIDs are none that orjson knows
                "tenant": tenant_id,
                "kind": change.kind,
                "severity": after.severity,
                "title": change.title,
                "message": change.message,
                "details": change.details,
                "event_id": str(uuid5(NAMESPACE, f"alert\n{after.id}\n{number}")),
                "run_id": str(run_id) if run_id else None,
            }
            await raw.fetchval("select incident_changed($1, $2)", item, now)


async def close_data_incidents(raw: Any, tenant_id: str, why: str, now: datetime) -> None:
    """Resolve what is open about a tenant's data, because no tick will: nobody measures it any more. Under the tenant's lock.

    What is open about an absence ends with the next look at all tenants.
    """
    rows = await raw.fetch(queries("quality.sql")["incidents"], [tenant_id])
    for check, before in known(rows).items():
        if before.open and not check.startswith("absence."):
            change = Change(
                check=check,
                action="resolve",
                reason=why,
                severity=before.severity,
                title=f"Not watched any more: {check}",
                message=f"{tenant_id}, {check}: {why}, so nothing is measured",
                details={"check": check, "status": "gone"},
                kind="resolved",
                after=replace(before, open=False, told_at=now, resolved_at=now, calm=0),
            )
            await carry_out(raw, tenant_id, None, change, now)


def listed(change: Change) -> dict[str, Any]:
    """The decision as it is kept beside the verdict."""
    said = {"check": change.check, "action": change.action, "reason": change.reason, "severity": change.severity}
    return {name: value for name, value in said.items() if value is not None} | ({"incident": str(change.after.id)} if change.after else {})


def known(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, IncidentState]:
    """Each check's newest incident, from its rows."""
    return {row["check_name"]: state(row) for row in rows}


def state(row: Mapping[str, Any]) -> IncidentState:
    """An incident as the decisions are made on it."""
    return IncidentState(row["id"], row["state"] == "open", row["severity"], row["changed_at"], row["resolved_at"], row["calm"], row["flaps"])
