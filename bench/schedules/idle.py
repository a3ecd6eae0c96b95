"""What ten thousand schedules cost while none of them is due: CPU of a worker and of PostgreSQL, with them and without."""

import asyncio
from typing import Any

from bench import processes
from bench.schedules.slots import TENANTS
from bench.schedules.town import Town, town
from bench.world import World

SECONDS = 25
_SCHEDULES = """
insert into schedules (name, pipeline, tenant_id, cron, paused, next_due)
select tenant_id, 'training', tenant_id, '0 2 * * *', false, now() + interval '1 hour' from tenants where status = 'active'
"""


async def idle(world: World) -> dict[str, Any]:
    """Shares of one core."""
    async with town(world, workers=1) as us:
        await asyncio.sleep(3)
        without = [await _share(us), 0.0]
        await us.tenants(TENANTS)
        await us.ledger.execute(_SCHEDULES)
        await us.ledger.execute("vacuum analyze schedules")
        await asyncio.sleep(3)
        having = await _share(us)
        await us.ledger.execute("delete from schedules")
        await asyncio.sleep(3)
        without[1] = await _share(us)
    base = sum(without) / 2
    return {"schedules": TENANTS, "percent_with": round(having, 2), "percent_without": round(base, 2), "percent_of_a_core": round(having - base, 2)}


async def _share(us: Town) -> float:
    parts = {name: pid for name, pid in us.world.parts.items() if name.startswith(("worker", "postgres"))}
    before = processes.cpu_of(parts)
    await asyncio.sleep(SECONDS)
    return 100 * sum(processes.spent(before, processes.cpu_of(parts)).values()) / SECONDS
