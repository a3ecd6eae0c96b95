"""What the command line uses of the checks themselves; it finds this by the setting `quality.tools`."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

import asyncpg

from agents.quality import NO_JUDGE, limits_of, warehouse_of
from expectations import rows, warehouse
from expectations.limits import bounds, origin, problem, read_own
from expectations.suites import CHECKS
from expectations.trouble import trouble
from streams.resident import ResidentChild
from streams.settings import Settings
from streams.stage import GiveUp


class Tools:
    """The checks as data, a tenant's rows one by one, and the watched tables for demo and tests."""

    def checks(self, settings: Settings, own: dict[str, Any]) -> list[dict[str, Any]]:
        """Every check with the limits that hold for a tenant with these settings, and where they come from."""
        limits, mine = limits_of(settings.quality), read_own(own)
        listed = []
        for check in CHECKS.values():
            limit = bounds(check, limits, mine)
            facts: dict[str, Any] = {"check": check.name, "suite": check.suite, "table": check.table, "kind": check.kind, "title": check.title}
            facts |= {"medium": limit.medium, "high": limit.high} if limit else {"medium": None, "high": None}
            listed.append(facts | {"off": limit is None, "unit": check.unit, "origin": origin(check, mine), "column": check.column or None})
        return listed

    def problem(self, settings: Settings, quality: dict[str, Any]) -> str | None:
        """Why a tenant's own limits make no sense, if they do not."""
        return problem(quality, limits_of(settings.quality))

    async def rows(self, settings: Settings, tenant_id: str, own: dict[str, Any], now: datetime) -> list[dict[str, Any]]:
        """What Great Expectations says of a bounded sample of the tenant's interactions, row by row; gives up with the code of what is in the way."""
        types = read_own(own).interaction_types or settings.quality.interaction_types
        try:
            found = await rows.sample(warehouse_of(settings), tenant_id, types, now, settings.quality.future_tolerance)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            why = trouble(error, "user_interactions, items or users")
            raise GiveUp(why.sentence, code=why.code) from error
        try:
            async with ResidentChild(memory=settings.runtime.child_memory) as child:
                judged = await child.run(rows.validate, found, types, timeout=settings.quality.judge_timeout)
        except NO_JUDGE as error:
            raise GiveUp(f"the judge did not answer ({error})", code="judge_died") from error
        return [asdict(each) for each in judged]

    async def create_warehouse(self, settings: Settings) -> None:
        """Make the watched tables where there are none."""
        await warehouse.create_tables(settings.warehouse.dsn.get_secret_value())


TOOLS = Tools()
