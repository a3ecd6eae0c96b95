"""The Faust table: a live view of each tenant's latest run, folded from `run.state` by a Faust app of its own; never the truth.

With a table present Faust takes another assignor, and the transport's validated settings would no longer hold (DECISIONS 3).
"""

import asyncio
import socket
from typing import Annotated, Any, cast
from uuid import UUID

import faust
import orjson
import structlog
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from faust.tables.manager import TableManager
from faust.types import TP
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.states import RunState
from schemas.tenant import TenantId, is_tenant_id
from streams.items import Arrived
from streams.records import STATE_TOPIC
from streams.settings import Settings
from streams.transport import add_agents, make_app

log = structlog.get_logger(__name__)

State = dict[str, Any]
States = dict[str, State]
"""Pipeline -> the whole state of the tenant's latest run of it."""


class Latest(BaseModel):
    """What a record on `run.state` must have to be kept; whatever else it says is kept with it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    tenant_id: TenantId
    run_id: UUID
    pipeline: Annotated[str, Field(min_length=1, max_length=100)]
    state: RunState
    version: Annotated[int, Field(ge=0)]


class Unusable(ValueError):
    """A record that says nothing about a tenant's latest run."""


def read(key: bytes | None, value: bytes | None) -> tuple[str, State]:
    """The tenant and the run's state in a record."""
    tenant = (key or b"").decode(errors="replace")
    if not is_tenant_id(tenant):
        raise Unusable("the key is no tenant id")
    if value is None:
        raise Unusable("a tombstone")
    try:
        state = orjson.loads(value)
        latest = Latest.model_validate(state)
    except ValidationError as error:
        raise Unusable(f"not a run's state: {error.error_count()} fields are wrong, first {'.'.join(map(str, error.errors()[0]['loc']))}") from error
    except orjson.JSONDecodeError as error:
        raise Unusable("not JSON") from error
    if latest.tenant_id != tenant:
        raise Unusable("the value is another tenant's than the key")
    return tenant, state


def fold(held: States | None, state: State) -> States | None:
    """What the tenant's entry becomes, as a new dictionary; None when something as new is held already."""
    states = held or {}
    before = states.get(state["pipeline"])
    if before is not None and before["version"] >= state["version"]:
        return None
    return {**states, state["pipeline"]: state}


def make_view_app(settings: Settings, app_class: type[faust.App] = faust.App) -> faust.App:
    """A second Faust app with the transport's settings under a group of its own.

    Its member id is the address it serves: no other process can hold that too, so a restarted view takes its partitions back without a rebalance.
    """
    kafka = settings.kafka.model_copy(update={"app_id": f"{settings.kafka.app_id}-view"})
    runtime = settings.runtime.model_copy(update={"pages_port": None})  # its pages are the web app's
    app = make_app(settings.model_copy(update={"kafka": kafka, "runtime": runtime}), slot=0, app_class=app_class)
    app.conf.consumer_group_instance_id = f"{kafka.app_id}-{socket.gethostname()}-{settings.web.port}"
    return app


class DeliveredTable(faust.Table[str, States]):
    """A table that says when the changelog has its latest change.

    Faust commits the offset of what changed the table after 0.1 s, delivered or not: a process killed then would never see the change again.
    """

    latest: "asyncio.Future[Any]"

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:
        self.latest = super().send_changelog(*args, **kwargs)
        return self.latest


class TenantTable:
    """The table and its one agent. Writing happens in the agent alone; reading anywhere in the process."""

    def __init__(self, app: faust.App, partitions: int) -> None:
        self._app, self._partitions = app, list(range(partitions))
        self._partition_of = DefaultPartitioner()
        about = "Where is each tenant's latest run?"
        self.table = DeliveredTable(app, name="tenants", key_type=str, value_type=None, partitions=partitions, beacon=app.tables.beacon, help=about)
        app.tables.add(self.table)
        add_agents(app, [STATE_TOPIC], self.keep, named="table")

    async def keep(self, record: Arrived) -> None:
        """Fold a run's newest state into its tenant's entry; returning is the acknowledgement."""
        try:
            tenant, state = read(record.key, record.value)
            states = fold(self.table.get(tenant), state)
            while states is not None and not await self._set(tenant, states):
                states = self.table[tenant]  # by now it may be a newer one
        except Unusable as reason:
            log.warning(
                "a record on run.state is skipped", code="unusable_state", reason=str(reason), partition=record.partition, offset=record.offset
            )
        except Exception:  # an exception that leaves here ends the process, for one record of a mere view
            log.exception("a record on run.state could not be kept", partition=record.partition, offset=record.offset)

    async def _set(self, tenant: str, states: States) -> bool:
        """Set the entry; whether the changelog has it."""
        self.table[tenant] = states
        try:
            await self.table.latest
        except KafkaError as error:
            log.warning("the table's changelog does not take a change; it is sent again", tenant=tenant, error=repr(error))
            await asyncio.sleep(1)
            return False
        return True

    @property
    def recovered(self) -> bool:
        """Whether what this process holds is whole: read back from the changelog, and no rebalance under way."""
        app = self._app
        return bool(app.started and cast(TableManager, app.tables).recovery.completed.is_set() and not app.in_recovery and not app.rebalancing)

    def states(self, tenant: str) -> States | None:
        """The tenant's entry; None when this process cannot know it (another one holds its partition, or it is still recovering)."""
        partition = self._partition_of(tenant.encode(), self._partitions, self._partitions)
        if not self.recovered or TP(STATE_TOPIC, partition) not in self._app.consumer.assignment():
            return None
        return dict(self.table.get(tenant) or {})
