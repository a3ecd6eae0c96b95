"""SIGKILL of whole workers around an alert: monitoring has it once, whoever died before, while and after telling."""

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from expectations.warehouse import create_tables
from streams.settings import from_stack
from tests.chaos.workers import Worker
from tests.e2e.house import House, until
from tests.quality.data import a_tenant, load, spoil

pytestmark = pytest.mark.timeout(180)
TENANT = "kill-telling"
AROUND = ("command.sending", "command.sent", "command.answered")
"""Before monitoring has it, before its answer is read, and before the ledger knows of the answer."""


async def test_an_alert_is_told_once_though_three_workers_die_over_it(house: House) -> None:
    await furnish_warehouse(house)
    await tick(house)
    worker = Worker("worker-telling", house.home, house.environment)
    try:
        for point in AROUND:
            await worker.start(point)
            assert await worker.ended() == -9
        await worker.start()
        await until(lambda: delivered(house))
    finally:
        await worker.kill()
    alerts = (await house.http.get(f"{house.at['monitoring']}/api/v1/alerts", params={"tenant": TENANT})).json()
    assert [(alert["details"]["check"], alert["details"]["kind"]) for alert in alerts] == [("user_interactions.types", "opened")]
    journal: list[dict[str, Any]] = (await house.http.get(f"{house.at['monitoring']}/journal", params={"tenant": TENANT})).json()
    assert len([call for call in journal if call["path"] == "/api/v1/alerts" and call["tenant_id"] == TENANT]) == 1, journal
    verdicts = await house.ledger.fetchval("select count(*) from quality_recorded where tenant_id = $1", TENANT)
    assert verdicts == 1


async def furnish_warehouse(house: House) -> None:
    """A tenant one of whose interactions in five is of a kind that is not allowed."""
    dsn = house.at["warehouse"]
    await create_tables(dsn)
    tables = await asyncpg.connect(dsn)
    now = datetime.now(UTC)
    await load(tables, spoil(a_tenant(TENANT, now=now), now=now, kinds=50))
    await tables.close()


async def tick(house: House) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=from_stack(house.at)["kafka"]["bootstrap"], acks="all")
    await producer.start()
    try:
        await producer.send_and_wait("dq.tick", json.dumps({"tenant_id": TENANT}).encode(), key=TENANT.encode())
    finally:
        await producer.stop()


async def delivered(house: House) -> bool:
    told = "select count(*) filter (where delivered_at is not null) = count(*) and count(*) > 0 from incident_transitions where tenant_id = $1"
    return bool(await house.ledger.fetchval(told, TENANT))
