"""A request for every tenant becomes one request a tenant: a chunk of tenants a transaction, so that nobody waits for ten thousand locks."""

import asyncio
from uuid import UUID, uuid5

import structlog

from schemas.cloudevents import body_hash
from schemas.context import NAMESPACE
from streams.inbox import Inbox
from streams.items import request_item
from streams.ledger.connection import is_conflict, is_outage
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines

log = structlog.get_logger(__name__)

CHUNK = 200
IDLE = 1.0
_OPEN = "select * from expansions where done_at is null order by at limit 1"
_TENANTS = "select tenant_id from tenants where status = 'active' and tenant_id > $1 order by tenant_id limit $2"


class Expander:
    """Carries open expansions on, whoever began them; a crash leaves the place that was reached."""

    def __init__(self, pipelines: Pipelines, ledger: Ledger, inbox: Inbox) -> None:
        self._pipelines, self._ledger, self._inbox = pipelines, ledger, inbox

    async def run(self) -> None:
        """Expand until cancelled."""
        while True:
            try:
                if await self.step():
                    continue
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    log.exception("expansion failed; trying again")
            await asyncio.sleep(IDLE)

    async def step(self) -> bool:
        """One chunk of the oldest open expansion; False when there is none."""
        rows = await self._ledger.calls.fetch(_OPEN)
        if not rows:
            return False
        row = rows[0]
        tenants = [found[0] for found in await self._ledger.calls.fetch(_TENANTS, row["after"], CHUNK)]
        items = [self._request(row, tenant) for tenant in tenants]
        last, done = tenants[-1] if tenants else row["after"], len(tenants) < CHUNK
        answers: list[Answer] = await self._ledger.expand(row["event_key"], row["after"], last, items, done=done)
        for answer in answers:
            self._inbox.follow(answer)
        return True

    def _request(self, row: Answer, tenant: str) -> Answer:
        pipeline = self._pipelines.by_name[row["pipeline"]]
        event = pipeline.entry.model_validate(row["data"] | {"tenant_id": tenant})
        cause: UUID = uuid5(NAMESPACE, f"expanded\n{row['event_id']}\n{tenant}")
        item = request_item(self._pipelines, pipeline, event, cause, row["source"], body_hash(event.dump()))
        return {key: value for key, value in item.items() if value is not None}
