"""Lets through the trainings that the gate blocked while a good verdict or an allowance was on its way, so that neither saw the other.

Who records the verdict finds no blocked run yet, and who blocks the run has read the verdict before: this look finds both, whoever died between.
"""

import asyncio
from datetime import timedelta

import structlog

from streams.ledger.connection import Connection, is_conflict, is_outage
from streams.ledger.ledger import Ledger
from streams.ledger.queries import queries
from streams.pipelines import Pipelines
from streams.quality import let_through

log = structlog.get_logger(__name__)

EVERY = timedelta(minutes=1)
PAUSE = 5.0


class LetThrough:
    """The loop that looks, by one worker at a time; the key of what it asks for is the blocked run's, so twice is like once."""

    def __init__(self, connection: Connection, ledger: Ledger, pipelines: Pipelines) -> None:
        self._connection, self._ledger, self._pipelines = connection, ledger, pipelines

    async def run(self) -> None:
        """Look until cancelled; an outage of the ledger is waited out."""
        while True:
            try:
                if await self._connection.value("select may_look('let_through', $1)", EVERY):
                    await self.look()
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    log.exception("the look for trainings that may pass the gate by now failed; trying again")
                await self._connection.drop()
            await asyncio.sleep(PAUSE)

    async def look(self) -> int:
        """One look at all tenants; how many trainings were asked for."""
        found = await self._connection.fetch(queries("quality.sql")["passable"], self._ledger.clock.now())
        tenants = [row["tenant_id"] for row in found]
        return len(await let_through(self._ledger, self._pipelines, tenants, "the data is good or allowed by now"))
