"""Notices what did not happen: no good training, no tick, a run that takes too long. One set-based look a minute, by one worker.

What becomes of a finding is decided where data quality is decided too (setting `absence.judge`), and told through the same incidents.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from streams.clients.quality import Change
from streams.incidents import carry_out
from streams.ledger.connection import Connection
from streams.ledger.ledger import Clocklike
from streams.settings import AbsenceSettings, Settings

log = structlog.get_logger(__name__)

AT_ONCE = 100
"""Incidents that change in one transaction; their tenants are locked until its end."""
Judge = Callable[[dict[str, Any], datetime, Settings], Change]
"""From a row of `absences` and the time: what changes about its incident."""
_FIND = "select * from absences($1, $2)"
_LOCK, _UNLOCK = (f"select {function}(hashtext('absence'))" for function in ("pg_try_advisory_lock", "pg_advisory_unlock"))


class Absence:
    """The look, over a connection of its own."""

    def __init__(self, connection: Connection, clock: Clocklike, settings: Settings, judge: Judge) -> None:
        self._connection, self._clock, self._settings, self._judge = connection, clock, settings, judge

    async def look(self) -> int:
        """One look at all tenants; how many incidents changed."""
        raw = await self._connection.raw()  # one to the end: whoever loses it, or fails and drops it, has lost the lock
        if not await raw.fetchval(_LOCK):
            return 0  # another's look takes longer than `absence.every`; what it has read and not written yet would be told twice
        now = self._clock.now()
        found = await raw.fetch(_FIND, now, rules(self._settings.absence))
        changes = [(row["tenant_id"], self._judge(dict(row), now, self._settings)) for row in found]
        changes = [each for each in changes if each[1].after is not None]
        for some in _chunks(changes):
            async with raw.transaction():
                await raw.execute("select lock_tenant(tenant) from unnest($1::text[]) tenant order by tenant", [tenant for tenant, _ in some])
                for tenant, change in some:
                    await carry_out(raw, tenant, None, change, now)
        await raw.execute(_UNLOCK)
        return len(changes)


def rules(settings: AbsenceSettings) -> list[dict[str, Any]]:
    """What is waited for, as `absences` takes it."""
    waited = (
        ("absence.training", "training_within", "training", "good"),
        ("absence.tick", "tick_within", "quality", "any"),
        ("absence.run", "run_within", None, "open"),  # of every pipeline
    )
    names = ("check", "name", "pipeline", "kind")
    return [dict(zip(names, each, strict=True)) | {"within": _seconds(settings, each[1])} for each in waited]


def _seconds(settings: AbsenceSettings, name: str) -> float | None:
    span: timedelta | None = getattr(settings, name)
    return None if span is None else span.total_seconds()


def _chunks(changes: Sequence[tuple[str, Change]]) -> Iterator[Sequence[tuple[str, Change]]]:
    for start in range(0, len(changes), AT_ONCE):
        yield changes[start : start + AT_ONCE]
