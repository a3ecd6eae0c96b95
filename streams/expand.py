"""A request for every tenant becomes one request a tenant: a chunk of tenants a transaction, so that nobody waits for ten thousand locks."""

import asyncio
from typing import Any
from uuid import UUID, uuid5

import structlog
from pydantic import ValidationError

from schemas.cloudevents import body_hash
from schemas.context import NAMESPACE
from schemas.event import Event
from streams.hold import Gate
from streams.inbox import Inbox
from streams.items import request_item
from streams.ledger.connection import is_conflict, is_outage
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines

log = structlog.get_logger(__name__)

CHUNK = 200
ANYBODY = "any-tenant"
IDLE = 1.0
_OPEN = "select * from expansions where done_at is null and event_key <> all($1) order by at limit 1"
_TENANTS = "select chosen_tenants($1, $2, $3)"


class Expander:
    """Carries open expansions on, whoever began them; a crash leaves the place that was reached."""

    def __init__(self, pipelines: Pipelines, ledger: Ledger, inbox: Inbox) -> None:
        self._pipelines, self._ledger, self._inbox = pipelines, ledger, inbox
        self._gate = gate(pipelines)
        self._unfit: list[UUID] = []
        """Those that this worker cannot carry on: it lacks their pipeline, or knows another form of the event. They are left to others."""

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
        """One chunk of the oldest open expansion; False when there is none, or none may go on now."""
        rows = await self._ledger.calls.fetch(_OPEN, self._unfit)
        if rows and await self._gate.shut(self._ledger.calls.fetch):
            return False
        for row in rows:
            try:
                _event(self._pipelines, row, ANYBODY)
            except (KeyError, ValidationError) as error:
                said = "a request for many tenants cannot be made by this worker; it is passed over until a restart"
                log.error(said, code="expansion_unfit", pipeline=row["pipeline"], expansion=str(row["event_key"]), reason=str(error)[:300])
                self._unfit.append(row["event_key"])
                continue
            for answer in await expand(self._pipelines, self._ledger, row, publishes=True):
                self._inbox.follow(answer)
        return bool(rows)


async def expand(pipelines: Pipelines, ledger: Ledger, row: Any, *, publishes: bool) -> list[Answer]:
    """One chunk of an expansion: what became of its requests; nothing when somebody else was there before, or the ledger was set back.

    `publishes`: whether the caller sends what they put into the outbox; else the next sweep of a worker takes it.
    """
    tenants = [found[0] for found in await ledger.calls.fetch(_TENANTS, row["chosen"], row["after"], CHUNK)]
    items = [_request(pipelines, row, tenant) | {"abandoned": not publishes} for tenant in tenants]
    last, done = tenants[-1] if tenants else row["after"], len(tenants) < CHUNK
    return await ledger.expand(row["event_key"], row["after"], last, items, done=done)


def gate(pipelines: Pipelines) -> Gate:
    """Shut while no chunk may be asked for."""
    return Gate("requests for many tenants", pipelines.settings.runtime.outbox_max)


def cause_of(event_id: UUID, tenant: str) -> UUID:
    """The event id of one tenant's request in an expansion."""
    return uuid5(NAMESPACE, f"expanded\n{event_id}\n{tenant}")


def _event(pipelines: Pipelines, row: Any, tenant: str) -> Event:
    return pipelines.by_name[row["pipeline"]].entry.model_validate(row["data"] | {"tenant_id": tenant})


def _request(pipelines: Pipelines, row: Any, tenant: str) -> Answer:
    pipeline, event = pipelines.by_name[row["pipeline"]], _event(pipelines, row, tenant)
    item = request_item(pipelines, pipeline, event, cause_of(row["event_id"], tenant), row["source"], body_hash(event.dump()))
    return {key: value for key, value in (item | {"publish": row["publish"]}).items() if value is not None}
