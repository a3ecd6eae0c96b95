"""Keeps verdicts in the ledger, many at once: what changes no incident in one statement, the rest under the locks of its tenants."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

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
Key = tuple[UUID | None, datetime | None]
"""Of a verdict: its run, and the moment as of which it was measured."""


async def keep(connection: Connection, events: Sequence[DqEvaluated], decide: Decide, now: datetime) -> list[Recorded]:
    """What was decided about each verdict, kept with it; what a measurement came to is decided once, however often it is asked."""
    kept = _recorded(await connection.fetch(_SQL["recorded"], [event.run_id for event in events]))
    incidents = _by_tenant(await connection.fetch(_SQL["incidents"], [event.tenant_id for event in events]))
    quiet, loud = [], []
    async for event in calmly(event for event in events if _key(event) not in kept):
        changes = decide(event, incidents.get(event.tenant_id, {}), now)
        if any(change.after is not None for change in changes):
            loud.append(event)  # decided again under the tenant's lock
        else:
            kept[_key(event)] = _decided(changes)
            quiet.append(event)
    for start in range(0, len(quiet), QUIET_AT_ONCE):
        await connection.fetch(_SQL["keep"], *_columns(quiet[start : start + QUIET_AT_ONCE], kept, now))
    loud.sort(key=lambda event: event.tenant_id)
    for start in range(0, len(loud), AT_ONCE):
        kept |= await _keep_locked(connection, loud[start : start + AT_ONCE], decide, now)
    return [kept[_key(event)] for event in events]


async def _keep_locked(connection: Connection, events: Sequence[DqEvaluated], decide: Decide, now: datetime) -> dict[Key, Recorded]:
    async with connection.transaction() as raw:
        tenants = [event.tenant_id for event in events]
        await raw.execute("select lock_tenant(tenant) from unnest($1::text[]) tenant", tenants)
        kept = _recorded(await raw.fetch(_SQL["recorded"], [event.run_id for event in events]))
        incidents = _by_tenant(await raw.fetch(_SQL["incidents"], tenants))
        idle = {row["tenant_id"] for row in await raw.fetch(_SQL["idle"], tenants)}
        new = [event for event in events if _key(event) not in kept]
        for event in new:
            # of who is not active any more, what was open is closed, and nobody would ever close what is opened now
            changes = [] if event.tenant_id in idle else decide(event, incidents.get(event.tenant_id, {}), now)
            for change in changes:
                await carry_out(raw, event.tenant_id, event.run_id, change, now)
            kept[_key(event)] = _decided(changes)
        await raw.execute(_SQL["keep"], *_columns(new, kept, now))
    return kept


def _recorded(rows: Sequence[Mapping[str, Any]]) -> dict[Key, Recorded]:
    """By run and moment; by the run alone for a verdict that does not say when it was measured."""
    found: dict[Key, Recorded] = {}
    for row in rows:
        found[row["run_id"], row["measured_at"]] = found[row["run_id"], None] = Recorded(**row["decided"])
    return found


def _key(event: DqEvaluated) -> Key:
    """A run that is retried measures anew."""
    return event.run_id, event.at


def _by_tenant(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, IncidentState]]:
    """Each tenant's newest incident of each check."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["tenant_id"], []).append(row)
    return {tenant: known(each) for tenant, each in found.items()}


def _decided(changes: Sequence[Change]) -> Recorded:
    return Recorded([listed(change) for change in changes if change.listed], sum(not change.listed for change in changes))


def _columns(events: Sequence[DqEvaluated], kept: Mapping[Key, Recorded], now: datetime) -> list[Any]:
    """The arguments of the statement `keep`."""
    return [
        [event.run_id for event in events],
        [event.tenant_id for event in events],
        [event.watched for event in events],
        [event.verdict for event in events],
        [event.at or now for event in events],
        # in an object, because a list of lists would be an array of two dimensions
        [{"checks": event.checks, "profile": event.profile, "decided": asdict(kept[_key(event)])} for event in events],
        now,
    ]
