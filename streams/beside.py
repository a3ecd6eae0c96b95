"""What a worker does beside its steps: alerts go to monitoring, ended runs into the tenants' warehouse, and it looks for what did not happen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streams.absence import Absence
from streams.alerts import Alerts
from streams.ledger.connection import Connection
from streams.ledger.ledger import Clocklike
from streams.projection import Projection
from streams.services import Services
from streams.settings import Settings, load


@asynccontextmanager
async def beside(settings: Settings, services: Any, clock: Clocklike) -> AsyncIterator[None]:
    """The loops for as long as the block; services of another kind than this platform's have none of them."""
    if not isinstance(services, Services):
        yield
        return
    dsn = settings.ledger.dsn.get_secret_value()
    telling, looking = (Connection(dsn, name=f"tidemill-{name}", statement_timeout=60) for name in ("alerts", "absence"))
    showing = Connection(dsn, name="tidemill-projection")
    warehouse = Connection(settings.warehouse.dsn.get_secret_value(), name="tidemill-projection")
    alerts = Alerts(telling, services.monitoring, clock, kept=settings.quality.kept)
    projection = Projection(showing, warehouse, role=settings.quality.projector_role)
    absence = Absence(looking, clock, settings, load(settings.absence.judge))
    loops = [asyncio.create_task(each.run()) for each in (alerts, projection, absence)]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for connection in (telling, looking, showing, warehouse):
            await connection.close()
