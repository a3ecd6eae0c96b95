"""Who comes next: one tenant with ten thousand queued runs beside 99 with one each, and shares by weight."""

import asyncio
import time
from collections import Counter
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.figures import quantile
from bench.schedules.town import TOPIC, Town, town
from bench.world import World

OTHERS, ROUNDS = 99, 5
LOUD = 10_000
WEIGHTS = {"one": 1, "two": 2, "five": 5}
DISPATCHES = 1000
# requests of one tenant merge into one follow-up, so that queue can only be put there
_QUEUE = """
with ids as (select gen_random_uuid() as id, now() - interval '1 second' as at from generate_series(1, $2)), run as (
    insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, stage, request, request_id, causes, version, requested_at, started_at)
    select id, $1, 'training', 'bench-schedules-1', 'running', 'touch', jsonb_build_object('tenant_id', $1::text), id, 1, 1, at, at from ids
)
insert into steps (run_id, stage, tenant_id, pipeline, state, round, due_at, input, input_type, input_id, ready_at)
select id, 'touch', $1, 'training', 'ready', 1, at, jsonb_build_object('tenant_id', $1::text), 'training.requested', id, at from ids
"""


_END = """
update runs r set state = 'cancelled', finished_at = now() from steps s
where r.run_id = s.run_id and s.state = 'cancelled' and r.tenant_id = 'loud-1' and r.finished_at is null
"""


async def loud(world: World) -> dict[str, Any]:
    """How long the others wait from their request to their turn, on an idle system and beside the loud one."""
    async with town(world, workers=1) as us:
        await us.tenants(OTHERS, "quiet")
        await us.tenants(1, "loud")
        alone = [wait for _ in range(ROUNDS) for wait in await _waits(us)]
        await us.ledger.execute(_QUEUE, "loud-1", LOUD)
        await us.ledger.execute("select pg_notify('tidemill_wake', '')")
        await us.world.stub.reset()
        await us.world.stub.wait(300, timeout=60)
        beside: list[float] = []
        left = []
        for _ in range(ROUNDS):
            beside += await _waits(us)
            left.append(await us.ledger.fetchval("select count(*) from steps where tenant_id = 'loud-1' and state = 'ready'"))
        await us.ledger.execute("update steps set state = 'cancelled' where tenant_id = 'loud-1' and state = 'ready' and worker is null")
        await us.ledger.execute(_END)
    return {
        "others": OTHERS,
        "queued": LOUD,
        "still_queued_at_the_end": left[-1],
        "idle_p50_ms": round(1000 * quantile(alone, 0.5), 1),
        "idle_p99_ms": round(1000 * quantile(alone, 0.99), 1),
        "beside_p50_ms": round(1000 * quantile(beside, 0.5), 1),
        "beside_p99_ms": round(1000 * quantile(beside, 0.99), 1),
        "p99_ratio": round(quantile(beside, 0.99) / quantile(alone, 0.99), 2),
    }


async def _waits(us: Town) -> list[float]:
    """Each of the others asks once, all at the same moment; seconds until the stub sees each."""
    names = [f"quiet-{number}" for number in range(1, OTHERS + 1)]
    before = {hit.run: hit.at for hit in await us.world.stub.hits()}
    producer = AIOKafkaProducer(bootstrap_servers=us.world.addresses.kafka, acks="all", enable_idempotence=False)
    await producer.start()
    try:
        await producer.partitions_for(TOPIC)
        asked = {}
        for name in names:
            asked[name] = time.monotonic()
            await producer.send(TOPIC, key=name.encode(), value=b'{"tenant_id":"%b"}' % name.encode())
        await producer.flush()
    finally:
        await producer.stop()
    async with asyncio.timeout(60):
        while True:
            hits = {hit.run: hit.at for hit in await us.world.stub.hits() if hit.run in asked}
            if len(hits) == OTHERS and all(at > before.get(name, 0) for name, at in hits.items()):
                break
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    return [hits[name] - at for name, at in asked.items()]


async def weights(world: World) -> dict[str, Any]:
    """Whose turn the first thousand calls were, with queues that do not run dry."""
    async with town(world, workers=1) as us:
        for name, weight in WEIGHTS.items():
            await us.ledger.execute("insert into tenants (tenant_id, settings) values ($1, $2)", name, {"dispatch": {"weight": weight}})
            await us.ledger.execute("insert into tenant_heads (tenant_id) values ($1)", name)
        async with us.ledger.transaction():
            for name in WEIGHTS:
                await us.ledger.execute(_QUEUE, name, DISPATCHES)
        await us.ledger.execute("select pg_notify('tidemill_wake', '')")
        await us.world.stub.wait(DISPATCHES, timeout=90)
        seen = Counter(hit.run for hit in sorted(await us.world.stub.hits(), key=lambda each: each.at)[:DISPATCHES])
        await us.over()
    total = sum(WEIGHTS.values())
    shares = {name: {"dispatched": seen[name], "due": round(DISPATCHES * weight / total)} for name, weight in WEIGHTS.items()}
    worst = max(abs(seen[name] / (DISPATCHES * weight / total) - 1) for name, weight in WEIGHTS.items())
    return {"dispatches": DISPATCHES, "worst_percent": round(100 * worst, 1), "shares": shares}
