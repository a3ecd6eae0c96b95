"""`python -m tests.quality.teller LEDGER MONITOR NOW [POINT]`: delivers what incidents have to tell, as a worker does; dies by SIGKILL at POINT."""

import asyncio
import sys
from datetime import datetime, timedelta

from streams.alerts import Alerts
from streams.clients.monitoring import open_monitoring
from streams.faultpoints import arm
from streams.ledger.connection import Connection
from streams.settings import MonitoringSettings


class Standing:
    """A clock that stands where the test's stands."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


async def tell(ledger: str, monitor: str, now: str) -> None:
    connection = Connection(ledger, name="teller")
    try:
        async with open_monitoring(MonitoringSettings(url=monitor)) as monitoring:
            alerts = Alerts(connection, monitoring, Standing(datetime.fromisoformat(now)), kept=timedelta(days=180))
            while await alerts.deliver():
                pass
    finally:
        await connection.close()


if __name__ == "__main__":
    for point in sys.argv[4:]:
        arm(point)
    asyncio.run(tell(*sys.argv[1:4]))
