"""The events of the training pipeline, in the order a run emits them."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints

from schemas.event import Event, Failure, JobStarted

Key = Annotated[str, StringConstraints(max_length=200)]
Sentence = Annotated[str, StringConstraints(max_length=2000)]
Path = Annotated[str, StringConstraints(max_length=900)]
"""A key in one of our buckets; whether it belongs to the tenant is checked where it is used (code `foreign_path`)."""


class TrainingConfig(BaseModel):
    """How the ML Engine trains: the known knobs are checked, further ones travel unchanged to the engine."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model_type: str = "matrix_factorization"
    base_model: str | None = None
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    factors: Annotated[int, Field(ge=2, le=1024)] = 32
    """Width of the embeddings: items.npy and users.npy are (n, factors) float32."""


class TrainingRequested(Event):
    """Somebody or something asks for a model trained on the tenant's latest data."""

    topic: ClassVar[str] = "training.requested"
    request_key: Key | None = None
    training_config: TrainingConfig | None = Field(default=None, alias="model_config")
    reason: Sentence | None = None
    slot: datetime | None = None
    """The due time of the schedule's slot, when a timer asked."""


class TrainingValidated(Event):
    """The tenant's training data is there and worth training on."""

    topic: ClassVar[str] = "training.validated"
    bucket: str
    prefix: str
    files: PositiveInt
    bytes: PositiveInt
    fingerprint: str
    """sha256 over the sorted (key, size, etag) of the data files: equal data gives an equal fingerprint."""
    training_config: TrainingConfig | None = Field(default=None, alias="model_config")


class TrainingStarted(JobStarted):
    """The ML Engine has the job; the run waits for `training.completed`."""

    topic: ClassVar[str] = "training.started"


class TrainingCompleted(Event):
    """The ML Engine is done with a job, for better or worse: its callback, or the watcher's finding."""

    topic: ClassVar[str] = "training.completed"
    job_id: Key
    status: Literal["completed", "failed", "cancelled"]
    model_path: Path | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    error: Sentence | None = None

    @property
    def failure(self) -> Failure | None:
        if self.status == "completed":
            return None
        return Failure(
            f"training_{self.status}",
            f"the ML Engine ended job {self.job_id} as {self.status}: {self.error or 'no reason given'}",
            self.status == "failed",
        )


class IndexStarted(JobStarted):
    """The ML Engine builds the index; the run waits for its `index.built`."""

    topic: ClassVar[str] = "index.started"
    model_path: Path


class IndexBuilt(Event):
    """A FAISS index lies complete in S3, manifest last, ready to be served."""

    topic: ClassVar[str] = "index.built"
    index_path: Path
    """Prefix in the indices bucket that holds index.faiss, items.ids and manifest.json."""
    model_path: Path | None = None
    manifest: Path | None = None
    vectors: PositiveInt
    dim: PositiveInt
    kind: Literal["IVF", "Flat"]
    nlist: NonNegativeInt = 0
    nprobe: NonNegativeInt = 0
    recall: Annotated[float, Field(ge=0, le=1)] | None = None
    """recall@10 against exact search on a sample of user vectors."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    job_id: Key | None = None
    """Set when the ML Engine built it: the callback is matched by this."""


class ModelDeployed(Event):
    """The inference service answers from this run's index."""

    topic: ClassVar[str] = "model.deployed"
    version: PositiveInt
    previous_version: NonNegativeInt | None = None
    health: str = "healthy"


class CacheWarmed(Event):
    """The tenant's most wanted items lie in Redis for this version (or a warning says why not)."""

    topic: ClassVar[str] = "cache.warmed"
    items: NonNegativeInt
    version: PositiveInt | None = None


class RunAccepted(Event):
    """A request became a run, with the requests that caused it."""

    topic: ClassVar[str] = "run.accepted"
    pipeline: str
    pipeline_version: str
    causes: list[UUID]
    round: int = 1


class RunFinished(Event):
    """A run is over."""

    topic: ClassVar[str] = "run.finished"
    pipeline: str
    outcome: str
    reason: str | None = None
    code: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
