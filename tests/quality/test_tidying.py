"""Tidying up old verdicts never keeps an alert from being told."""

import asyncio
from datetime import timedelta

import pytest

from streams import alerts
from streams.alerts import Alerts
from streams.ledger.connection import Connection, connect
from tests.fakes import FakeMonitoring
from tests.quality.data import NOW

pytestmark = pytest.mark.timeout(120)


class Clock:
    def now(self):
        return NOW


async def test_alerts_are_told_while_somebody_has_the_verdicts_locked(ledger_dsn, monkeypatch):
    monkeypatch.setattr(alerts, "PAUSE", 0.05)
    monkeypatch.setattr(alerts, "LOCK_TIMEOUT", "200ms")
    connection, other = Connection(ledger_dsn), await connect(ledger_dsn, timeout=10, name="test")
    telling = Alerts(connection, FakeMonitoring(), Clock(), kept=timedelta(days=180))
    rounds = asyncio.Semaphore(0)
    deliver = telling.deliver

    async def counted():
        told = await deliver()
        rounds.release()
        return told

    monkeypatch.setattr(telling, "deliver", counted)
    async with other.transaction():
        await other.execute("lock table quality_verdicts in access exclusive mode")
        running = asyncio.create_task(telling.run())
        async with asyncio.timeout(10):
            for _ in range(3):
                await rounds.acquire()
        running.cancel()
    await other.close()
    await connection.close()
