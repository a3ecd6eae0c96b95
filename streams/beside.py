"""What a worker does beside its steps: alerts to monitoring, ended runs into the tenants' warehouse; looks for what arrived, is late or may go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from streams.absence import Absence
from streams.alerts import Alerts
from streams.arrivals import Arrivals
from streams.ledger.connection import Connection
from streams.ledger.ledger import Ledger
from streams.looks import now_and_then
from streams.pipelines import Pipelines
from streams.projection import Projection
from streams.quality import reconsider
from streams.services import Services
from streams.settings import load
from streams.sweeper import Sweeper
from streams.tenant_sync import follow

RECONSIDERED = timedelta(minutes=1)
"""From one look for blocked trainings that may pass by now to the next."""


@asynccontextmanager
async def beside(pipelines: Pipelines, services: Any, ledger: Ledger) -> AsyncIterator[None]:
    """The loops for as long as the block; services of another kind than this platform's have none of them."""
    if not isinstance(services, Services):
        yield
        return
    settings, clock = pipelines.settings, ledger.clock
    dsn = settings.ledger.dsn.get_secret_value()
    telling, looking, finding = (Connection(dsn, name=f"tidemill-{name}", statement_timeout=60) for name in ("alerts", "absence", "arrivals"))
    showing, sweeping = Connection(dsn, name="tidemill-projection"), Connection(dsn, name="tidemill-sweeper", statement_timeout=60)
    passing = Connection(dsn, name="tidemill-blocked", statement_timeout=60)
    warehouse = Connection(settings.warehouse.dsn.get_secret_value(), name="tidemill-projection")
    alerts = Alerts(telling, services.monitoring, clock, kept=settings.quality.kept)
    projection = Projection(showing, warehouse, role=settings.quality.projector_role)
    absence = Absence(looking, clock, settings, load(settings.absence.judge))
    arrivals = Arrivals(finding, ledger, pipelines, services, load(settings.arrivals.look))
    sweeper = Sweeper(sweeping, services.objects, clock, settings)
    looks = [
        now_and_then(looking, "absence", settings.absence.every, absence.look),
        now_and_then(finding, "arrivals", settings.arrivals.every, arrivals.look),
        now_and_then(passing, "blocked", RECONSIDERED, partial(reconsider, passing, ledger, pipelines)),
    ]
    if every := settings.runtime.sync_tenants:
        looks.append(now_and_then(passing, "tenants", every, partial(follow, ledger, pipelines)))
    loops = [asyncio.create_task(each) for each in (alerts.run(), projection.run(), sweeper.run(), *looks)]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for connection in (telling, looking, finding, showing, sweeping, passing, warehouse):
            await connection.close()
