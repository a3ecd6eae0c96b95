"""Schedules that fire each minute while chaos goes on, one of each policy for missed times, and tenants of their own for them."""

import asyncio
from datetime import UTC, datetime, timedelta

from tests.chaos.watch import Watch

POLICIES = ("all", "latest", "skip")
_TENANT = "insert into tenants (tenant_id) values ($1) on conflict do nothing"
_HEAD = "insert into tenant_heads (tenant_id) values ($1) on conflict do nothing"
_SCHEDULE = """
insert into schedules (name, pipeline, tenant_id, cron, missed, starts_at, next_due) values ($1, 'training', $1, '* * * * *', $2, $3, $3)
on conflict do nothing
"""
_PAUSED = "update schedules set paused = $1 where name = any($2)"


class Schedules:
    """They rest between rounds; what they miss then is for their policies, as what they miss in an outage."""

    def __init__(self, watch: Watch, tenants: list[str]) -> None:
        self._watch, self.tenants = watch, tenants

    async def make(self) -> None:
        """Each tenant has one of its own, whose first due time is this minute."""
        starts = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
        for number, tenant in enumerate(self.tenants):
            await self._do(_TENANT, tenant)
            await self._do(_HEAD, tenant)
            await self._do(_SCHEDULE, tenant, POLICIES[number % len(POLICIES)], starts)

    async def go(self) -> None:
        await self._do(_PAUSED, False, self.tenants)

    async def pause(self) -> None:
        await self._do(_PAUSED, True, self.tenants)

    async def _do(self, query: str, *args: object) -> None:
        """Until the ledger has done it."""
        async with asyncio.timeout(60):
            while await self._watch.fetch(query, *args) is None:  # noqa: ASYNC110  # a ledger that comes back sets no event
                await asyncio.sleep(0.2)
