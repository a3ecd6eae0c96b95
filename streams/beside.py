"""What a worker does beside its steps: alerts go to monitoring, and ended runs into the tenants' warehouse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streams.alerts import Alerts
from streams.ledger.connection import Connection
from streams.ledger.ledger import Clocklike
from streams.projection import Projection
from streams.services import Services
from streams.settings import Settings


@asynccontextmanager
async def beside(settings: Settings, services: Any, clock: Clocklike) -> AsyncIterator[None]:
    """Both loops for as long as the block; services of another kind than this platform's have neither."""
    if not isinstance(services, Services):
        yield
        return
    dsn = settings.ledger.dsn.get_secret_value()
    telling, showing = Connection(dsn, name="tidemill-alerts", statement_timeout=60), Connection(dsn, name="tidemill-projection")
    warehouse = Connection(settings.warehouse.dsn.get_secret_value(), name="tidemill-projection")
    alerts = Alerts(telling, services.monitoring, clock, kept=settings.quality.kept)
    projection = Projection(showing, warehouse, role=settings.quality.projector_role)
    loops = [asyncio.create_task(alerts.run()), asyncio.create_task(projection.run())]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for connection in (telling, showing, warehouse):
            await connection.close()
