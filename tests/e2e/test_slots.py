"""SIGKILL around a real schedule slot: no due time is left out and none is asked for twice."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.settings import KafkaSettings, from_stack
from tests.chaos.workers import Worker
from tests.e2e.house import House, furnish, until

pytestmark = pytest.mark.timeout(180)


async def test_workers_killed_while_slots_fire_leave_no_slot_out_and_fire_none_twice(house: House, tmp_path: Path) -> None:
    tenant, due = "kill-slot-firing", datetime.now(UTC).replace(second=0, microsecond=0)
    dues = {due - timedelta(minutes=ago) for ago in range(5)}
    await furnish(house, tenant, tmp_path)
    await schedule(house, tenant, first=min(dues), last=due)
    workers = [Worker(f"worker-{tenant}-{number}", house.home, house.environment) for number in (1, 2)]
    try:
        for worker in workers:
            await worker.start("slot.firing")
            assert await worker.ended() == -9
        assert await house.ledger.fetchval("select count(*) from slots where tenant_id = $1 and state <> 'due'", tenant) == 0
        await asyncio.gather(*(worker.start() for worker in workers))
        await until(lambda: settled(house, tenant))
    finally:
        await asyncio.gather(*(worker.kill() for worker in workers))
    slots = await house.ledger.fetch("select due, state from slots where tenant_id = $1", tenant)
    assert {(slot["due"], slot["state"]) for slot in slots} == {(due, "fired") for due in dues}
    assert len(slots) == len(dues)
    asked = await requests_of(house, tenant)
    assert Counter(slot for _, slot in asked) == dict.fromkeys(dues, 1), "one event a due time, however often it was published"
    causes = await house.ledger.fetch("select event_id from causes join runs using (run_id) where tenant_id = $1", tenant)
    assert sorted(str(cause["event_id"]) for cause in causes) == sorted(event_id for event_id, _ in asked), "each is the cause of exactly one run"


async def schedule(house: House, tenant: str, *, first: datetime, last: datetime) -> None:
    """A tenant with a schedule of each minute whose first due times have been missed."""
    await house.ledger.execute("insert into tenants (tenant_id) values ($1)", tenant)
    await house.ledger.execute("insert into tenant_heads (tenant_id) values ($1)", tenant)
    columns = "name, pipeline, tenant_id, cron, missed, paused, next_due, ends_at"
    await house.ledger.execute(
        f"insert into schedules ({columns}) values ($1, 'training', $1, '* * * * *', 'all', false, $2, $3)", tenant, first, last
    )


async def settled(house: House, tenant: str) -> bool:
    """No slot is due, the requests are on Kafka, and the runs are over."""
    open_runs = "exists (select 1 from runs where tenant_id = $1 and finished_at is null)"
    due = "exists (select 1 from slots where tenant_id = $1 and state = 'due')"
    made = "exists (select 1 from runs where tenant_id = $1)"
    return bool(await house.ledger.fetchval(f"select {made} and not {due} and not {open_runs} and not exists (select 1 from outbox)", tenant))


async def requests_of(house: House, tenant: str) -> set[tuple[str, datetime]]:
    """(event id, slot) of the tenant's requests on Kafka."""
    consumer = AIOKafkaConsumer(bootstrap_servers=from_stack(house.at)["kafka"]["bootstrap"])
    partitions = [TopicPartition("training.requested", number) for number in range(KafkaSettings().partitions)]
    consumer.assign(partitions)
    await consumer.start()
    try:
        await consumer.seek_to_beginning(*partitions)
        ends, found = await consumer.end_offsets(partitions), []
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            found += [record for records in (await consumer.getmany(timeout_ms=500)).values() for record in records if record.key == tenant.encode()]
    finally:
        await consumer.stop()
    return {(dict(record.headers)["ce_id"].decode(), datetime.fromisoformat(json.loads(record.value)["slot"])) for record in found}
