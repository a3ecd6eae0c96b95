"""The base of every event: a frozen fact in the past tense that knows its topic and gives birth to the next one."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from schemas.tenant import TenantId


class Failure(NamedTuple):
    """Why a remote job did not end well: a named code and a sentence for whoever is paged."""

    code: str
    sentence: str
    again: bool = True
    """Whether another round may end better; a job that somebody cancelled is not started again."""


class Event(BaseModel):
    """A fact about one tenant, and mostly about one run of it. Unknown fields of a newer schema are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, ser_json_inf_nan="strings")

    topic: ClassVar[str]
    """The Kafka topic, which is also the CloudEvents type."""

    tenant_id: TenantId
    run_id: UUID | None = None
    """The run this is about; the runtime fills it in where a publisher cannot know it."""

    @property
    def key(self) -> str:
        """The Kafka key: one tenant's events stay in order."""
        return self.tenant_id

    @property
    def failure(self) -> Failure | None:
        """The named failure this event reports, or None: what the runtime needs to know to open the next round."""
        return None

    def then(self, kind: type["E"], /, **fields: Any) -> "E":
        """The next event of the same tenant and run."""
        return kind(tenant_id=self.tenant_id, run_id=self.run_id, **fields)

    def of_run(self, run_id: UUID) -> Self:
        """The same fact, now known to be about `run_id`."""
        return self if self.run_id == run_id else self.model_copy(update={"run_id": run_id})

    def dump(self) -> dict[str, Any]:
        """The data part as JSON-ready values, by wire names; fields that are not set are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class JobStarted(Event):
    """Something remote works on it; the run waits for the completion that names the same job."""

    job_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    deadline: datetime | None = None
    """The absolute time at which the run gives up waiting; set by the runtime."""


E = TypeVar("E", bound=Event)
