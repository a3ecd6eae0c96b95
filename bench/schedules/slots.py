"""Due times of ten thousand tenants: all in the same second, and spread over a window with a worker that dies in its middle."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import processes
from bench.figures import quantile
from bench.schedules.town import Requests, Town, requests, town
from bench.world import World

TENANTS = 10_000
TRIES = 3
"""Of the crowd: on a shared machine one try says little."""
WINDOW = timedelta(seconds=100)
LEAD = timedelta(seconds=5)
TWICE = 4
"""Seconds for which those that come twice are waited for."""
_SCHEDULE = """
insert into schedules (name, pipeline, cron, jitter, paused, next_due) values ('bench', 'training', '0 0 1 1 *', $1, false, $2)
"""


async def at_once(world: World) -> dict[str, Any]:
    """How long after the second the last request appears on Kafka, and whose CPU went into that: the middle one of the tries, and the span of all."""
    tries = sorted([await _crowd(world) for _ in range(TRIES)], key=lambda each: each["last_s"])
    spans = {f"{name}_of_all": [each[name] for each in tries] for name in ("last_in_ledger_s", "last_s")}
    counts = {"tenants": min(each["tenants"] for each in tries), "twice": sum(each["twice"] for each in tries)}
    return tries[TRIES // 2] | spans | counts


async def _crowd(world: World) -> dict[str, Any]:
    async with town(world, workers=3) as us, requests(world) as found:
        due = await _due(us, timedelta(0))
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
        before, reader = world.cpu(), time.process_time()
        await _all(found, within=90)
        spent = processes.spent(before, world.cpu()) | {"reader": round(time.process_time() - reader, 2)}
        await asyncio.sleep(TWICE)
        seen = [at - due.timestamp() for *_, at in found.seen]
        fired = await us.ledger.fetchrow(
            "select count(*) as slots, max(extract(epoch from fired_at - due))::float8 as last from slots where state = 'fired'"
        )
        assert fired is not None
        result = _counts(found) | {"slots_fired": fired["slots"], "last_in_ledger_s": round(fired["last"], 2)}
        result |= {"last_s": round(max(seen), 2), "p50_s": round(quantile(seen, 0.5), 2), "cpu_s": spent}
        await us.over()
    return result


async def spread(world: World) -> dict[str, Any]:
    """How late each request appears on Kafka; one of three workers is killed in the middle of the window."""
    async with town(world, workers=3) as us, requests(world) as found:
        due = await _due(us, WINDOW)
        await asyncio.sleep((due + WINDOW / 2 - datetime.now(UTC)).total_seconds())
        killed = datetime.now(UTC).timestamp()
        await us.kill(1)
        await _all(found, within=WINDOW.total_seconds() + 90)
        await asyncio.sleep(TWICE)
        rows = await us.ledger.fetch("select tenant_id, extract(epoch from fire_at)::float8 as fire_at from slots where due = $1", due)
        planned = {row["tenant_id"]: row["fire_at"] for row in rows}
        late = {tenant: at - planned[tenant] for tenant, _, _, at in sorted(found.seen, key=lambda each: -each[3])}
        # what the dead worker had in hand (committed, not yet published, or rolled back) was due shortly before it died
        others = [seconds for tenant, seconds in late.items() if not killed - 1 <= planned[tenant] <= killed]
        theirs = [seconds for tenant, seconds in late.items() if killed - 1 <= planned[tenant] <= killed]
        result = _counts(found) | {
            **{f"p{share}_s": round(quantile(others, share / 100), 3) for share in (50, 95, 99)},
            **{"max_s": round(max(others), 2), "all_p99_s": round(quantile(list(late.values()), 0.99), 3)},
            **{"last_second_of_killed": len(theirs), "last_second_of_killed_max_s": round(max(theirs, default=0), 2)},
        }
        await us.over()
    return result


async def _due(us: Town, jitter: timedelta) -> datetime:
    await us.tenants(TENANTS)
    due = (datetime.now(UTC) + LEAD).replace(microsecond=0)
    await us.ledger.execute(_SCHEDULE, jitter, due)
    return due


async def _all(found: Requests, *, within: float) -> None:
    """Until every tenant's request was seen."""
    async with asyncio.timeout(within):
        while found.count < TENANTS or len({tenant for tenant, *_ in found.seen}) < TENANTS:  # noqa: ASYNC110  # another task adds to it
            await asyncio.sleep(0.2)


def _counts(found: Requests) -> dict[str, Any]:
    """Each request once: a record that is published twice after a crash has the id of the first, and readers know it."""
    ids = Counter(tenant for tenant, _ in {(tenant, event) for tenant, _, event, _ in found.seen})
    return {"tenants": len(ids), "twice": sum(count > 1 for count in ids.values()), "records": len(found.seen)}
