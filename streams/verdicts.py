"""Keeps verdicts in the ledger, many at once: what changes no incident in one statement, the rest under the locks of its tenants."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from schemas.quality import DqEvaluated
from streams.calmly import calmly
from streams.clients.quality import Change, Decide, IncidentState, Recorded
from streams.incidents import carry_out, known, listed
from streams.ledger.connection import Connection
from streams.ledger.queries import queries

AT_ONCE = 20
"""Verdicts that change incidents in one transaction; their tenants are locked until its end."""
QUIET_AT_ONCE = 50
"""Verdicts that change none, in one statement."""
_SQL = queries("quality.sql")


async def keep(connection: Connection, events: Sequence[DqEvaluated], decide: Decide, now: datetime) -> list[Recorded]:
    """What was decided about each verdict, kept with it; what a run's verdict came to is decided once, however often it is asked."""
    kept = _recorded(await connection.fetch(_SQL["recorded"], [event.run_id for event in events]))
    incidents = _by_tenant(await connection.fetch(_SQL["incidents"], [event.tenant_id for event in events]))
    quiet, loud = [], []
    async for event in calmly(event for event in events if event.run_id not in kept):
        changes = decide(event, incidents.get(event.tenant_id, {}), now)
        if any(change.after is not None for change in changes):
            loud.append(event)  # decided again under the tenant's lock
        else:
            kept[event.run_id] = _decided(changes)
            quiet.append(event)
    for start in range(0, len(quiet), QUIET_AT_ONCE):
        await connection.fetch(_SQL["keep"], *_columns(quiet[start : start + QUIET_AT_ONCE], kept, now))
    loud.sort(key=lambda event: event.tenant_id)
    for start in range(0, len(loud), AT_ONCE):
        kept |= await _keep_locked(connection, loud[start : start + AT_ONCE], decide, now)
    return [kept[event.run_id] for event in events]


async def _keep_locked(connection: Connection, events: Sequence[DqEvaluated], decide: Decide, now: datetime) -> dict[Any, Recorded]:
    async with connection.transaction() as raw:
        tenants = [event.tenant_id for event in events]
        await raw.execute("select lock_tenant(tenant) from unnest($1::text[]) tenant", tenants)
        kept = _recorded(await raw.fetch(_SQL["recorded"], [event.run_id for event in events]))
        incidents = _by_tenant(await raw.fetch(_SQL["incidents"], tenants))
        new = [event for event in events if event.run_id not in kept]
        for event in new:
            changes = decide(event, incidents.get(event.tenant_id, {}), now)
            for change in changes:
                await carry_out(raw, event.tenant_id, event.run_id, change, now)
            kept[event.run_id] = _decided(changes)
        await raw.execute(_SQL["keep"], *_columns(new, kept, now))
    return kept


def _recorded(rows: Sequence[Mapping[str, Any]]) -> dict[Any, Recorded]:
    return {row["run_id"]: Recorded(**row["decided"]) for row in rows}


def _by_tenant(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, IncidentState]]:
    """Each tenant's newest incident of each check."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["tenant_id"], []).append(row)
    return {tenant: known(each) for tenant, each in found.items()}


def _decided(changes: Sequence[Change]) -> Recorded:
    return Recorded([listed(change) for change in changes if change.listed], sum(not change.listed for change in changes))


def _columns(events: Sequence[DqEvaluated], kept: Mapping[Any, Recorded], now: datetime) -> list[Any]:
    """The arguments of the statement `keep`."""
    return [
        [event.run_id for event in events],
        [event.tenant_id for event in events],
        [event.watched for event in events],
        [event.verdict for event in events],
        [event.at or now for event in events],
        # in an object, because a list of lists would be an array of two dimensions
        [{"checks": event.checks, "profile": event.profile, "decided": asdict(kept[event.run_id])} for event in events],
        now,
    ]
