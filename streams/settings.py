"""All settings, grouped by neighbour, each with its unit in the type; nothing else in the house reads the environment.

Sources, strongest first: arguments, the environment (`TIDEMILL_KAFKA__BOOTSTRAP=…`), `tidemill.toml` in the current folder
(or `TIDEMILL_CONFIG`), the running local stack's `stack.json`, the defaults below. An unknown key is an error.
"""

import json
import os
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Seconds = Annotated[float, Field(gt=0)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Group):
    bootstrap: str = "127.0.0.1:20092"
    partitions: PositiveInt = 8
    """Of every topic alike; at least the greatest number of workers ever run."""
    replication: PositiveInt = 1
    """3 in production, with min.insync.replicas 2."""
    retention: timedelta = timedelta(days=7)
    app_id: str = "tidemill"
    """Prefix of the consumer groups."""


class LedgerSettings(Group):
    dsn: SecretStr = SecretStr("postgresql://tidemill@127.0.0.1:20432/tidemill")
    connections: Annotated[int, Field(ge=5)] = 6
    """Of a worker, for what it does all the time: one records events, two commit what is large or unusual, one does all else, the rest hand over."""
    statement_timeout: Seconds = 15


class WarehouseSettings(Group):
    dsn: SecretStr = SecretStr("postgresql://tidemill@127.0.0.1:20432/warehouse")


class RedisSettings(Group):
    url: SecretStr = SecretStr("redis://127.0.0.1:20379/0")


class S3Settings(Group):
    endpoint: str | None = "http://127.0.0.1:20333"
    """None means AWS itself."""
    region: str = "us-east-1"
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    training_bucket: str = "embeddings-training-data"
    models_bucket: str = "embeddings-models"
    indices_bucket: str = "embeddings-indices"
    raw_bucket: str = "embeddings-raw-data"
    processed_bucket: str = "embeddings-processed-data"

    @property
    def buckets(self) -> tuple[str, ...]:
        return (self.training_bucket, self.models_bucket, self.indices_bucket, self.raw_bucket, self.processed_bucket)


class NeighbourSettings(Group):
    url: str
    timeout: Seconds = 30
    """Total deadline of one call, connect to last byte."""
    max_response: PositiveInt = 1 << 20
    """Bytes of an answer that are read before it is refused."""


class MLEngineSettings(NeighbourSettings):
    url: str = "http://127.0.0.1:20800"
    poll_every: timedelta = timedelta(minutes=1)
    """How often the watcher asks after a running job that has not called back."""
    deadline: timedelta = timedelta(hours=6)
    """How long a run waits for its job before it is `timed_out`."""
    max_jobs: PositiveInt | None = None
    """How many jobs the engine takes at once; None: as many as come."""


class InferenceSettings(NeighbourSettings):
    url: str = "http://127.0.0.1:20801"
    health_deadline: timedelta = timedelta(minutes=2)
    """How long a new version may take to become healthy before the last good one is restored."""
    warm_top_k: PositiveInt = 1000


class MonitoringSettings(NeighbourSettings):
    url: str = "http://127.0.0.1:20802"


class ValidationSettings(Group):
    min_files: PositiveInt = 1
    min_bytes: PositiveInt = 64
    max_bytes: PositiveInt = 1 << 40


class IndexSettings(Group):
    builder: Literal["local", "engine"] = "local"
    """Who builds the index: a child process of the worker, or the ML Engine's `/api/v1/index/build`."""
    flat_below: PositiveInt = 1000
    """With fewer vectors than this an exact Flat index is both smaller and faster than IVF."""
    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.95
    recall_floor: Annotated[float, Field(ge=0, le=1)] = 0.80
    """Below this the run fails with `recall_too_low` and the old index stays live."""
    orphans_kept: timedelta = timedelta(days=1)
    """How old a folder that nothing names must be before it is deleted."""
    sweep_every: timedelta = timedelta(hours=6)
    """How often such folders are looked for."""


class RetrySettings(Group):
    attempts: PositiveInt = 4
    """One first try and three retries."""
    every: timedelta = timedelta(minutes=5)
    within: timedelta = timedelta(days=3)
    """No try begins later than this after the first; then the run ends, even if an outage of a neighbour is all that it waited for."""


class RuntimeSettings(Group):
    eager: bool = True
    """The worker that commits a step goes straight on with the next; off: the event's return through Kafka drives it."""
    concurrency: PositiveInt = 64
    """Steps one worker runs at a time."""
    processes: PositiveInt = 2
    """Child processes for CPU work (index builds)."""
    child_memory: PositiveInt = 4 << 30
    """Bytes of address space a child process may use beyond what it starts with."""
    lease: Seconds = 12
    heartbeat: Seconds = 3
    sweep: Seconds = 10
    """How often idle partitions are compared with their end offsets."""
    poll: Seconds = 0.5
    """How often due rows are looked for when nobody woke the worker."""
    outbox_max: PositiveInt = 100_000
    """Above this many unpublished rows the API answers 503."""
    unknown_tenants: Literal["refuse", "create"] = "refuse"
    sync_tenants: timedelta | None = None
    """How often what changed in the warehouse's table `tenants` is taken over; None: only when somebody says `tidemill tenants sync`."""
    pages_port: PositiveInt | None = None
    """A worker's /livez, /readyz and /metrics: slot 1 has this port, slot 2 the next; None: no pages."""


class QualitySettings(Group):
    gate: Literal["on", "off"] = "on"
    """Whether a tenant's last verdict decides if it may train. Tenants that the warehouse does not know are neither watched nor gated."""
    no_verdict: Literal["measure", "allow", "block"] = "measure"
    """What the gate does before a tenant's first verdict: have it measured now and decide then, let it train, or block it."""
    dsn: SecretStr | None = None
    """Where the watched tables are read, a replica for instance; None: the warehouse itself."""
    role: str | None = "tidemill_reader"
    """The role that reads them; None: as whom the DSN says."""
    projector_role: str | None = "tidemill_projector"
    """The role that writes `model_training_runs`, and nothing else."""
    statement_timeout: Seconds = 60
    """For one pass over one table of a chunk of tenants; halved with the chunk, down to `least_timeout`. For all passes of a tenant that is
    measured alone, because it took too long last time."""
    least_timeout: Seconds = 5
    lock_timeout: Seconds = 2
    """How long a pass waits for a table that somebody has locked; then the table counts as not measurable."""
    work_mem: str = "64MB"
    """Of PostgreSQL, for a pass's sorts and hashes."""
    full_every: timedelta = timedelta(hours=24)
    """How often a clean tenant's tables are read whole; between these only what is new is counted."""
    judge_timeout: Seconds = 120
    interactions_within: timedelta = timedelta(hours=24)
    items_within: timedelta = timedelta(days=7)
    training_within: timedelta = timedelta(hours=24)
    interaction_types: tuple[str, ...] = ("view", "click", "purchase", "like", "share", "add_to_cart", "rating", "dislike", "bookmark", "comment")
    """Allowed unless the tenant's own setting `quality.interaction_types` says otherwise."""
    future_tolerance: timedelta = timedelta(minutes=5)
    """How far ahead a publisher's clock may be."""
    tolerated_percent: Annotated[float, Field(ge=0, le=100)] = 0
    """Missing, orphaned, repeated or invalid rows up to this share are healthy."""
    high_percent: Annotated[float, Field(ge=0, le=100)] = 1
    """Above this share they block training; between the two they are worth an alert."""
    unusual: Annotated[float, Field(gt=0)] = 3
    """Robust z-score above which a number is unusual (medium) …"""
    very_unusual: Annotated[float, Field(gt=0)] = 5
    """… and very unusual (high)."""
    warm_up: Annotated[int, Field(ge=2)] = 4
    """Weeks that a number must have been seen at its hour of the week before it can be called unusual."""
    remind_every: timedelta = timedelta(days=3)
    """How often an open incident is told again."""
    flapping_within: timedelta = timedelta(hours=24)
    """A check that fails again so soon after it was resolved goes on with its old incident, and must stay healthy longer each time."""
    kept: timedelta = timedelta(days=180)
    """How long verdicts are kept; they are dropped a month at a time."""
    allowed_for: timedelta = timedelta(hours=24)
    """How long `tidemill quality allow` holds unless it says otherwise."""
    tools: str = "agents.quality_tools:TOOLS"
    """What CLI and demo use of the checks themselves, as `module:name`."""


class AbsenceSettings(Group):
    """What must happen within a time, else somebody is told; each of the three also as a tenant's own setting (`absence.training_within` …)."""

    training_within: timedelta | None = timedelta(hours=30)
    """A training that succeeded; None: nobody waits for it."""
    tick_within: timedelta | None = timedelta(hours=7)
    """A data-quality run, whatever came of it."""
    run_within: timedelta | None = timedelta(hours=8)
    """The end of a run, from its request on: its SLA."""
    every: timedelta = timedelta(minutes=1)
    """How often one of the workers looks."""
    judge: str = "agents.absence:judge"
    """What decides about an absence, as `module:name`."""


class ArrivalSettings(Group):
    """Training when enough new data has arrived, for tenants that set `arrivals.train`; each bound also as a tenant's own setting."""

    least_bytes: PositiveInt = 1 << 20
    """New or changed files must hold so many bytes together."""
    apart: timedelta = timedelta(hours=6)
    """From the request of any training to the next one asked for by arrivals."""
    per_day: PositiveInt = 4
    """Trainings that arrivals ask for within 24 hours."""
    every: timedelta = timedelta(minutes=5)
    """How often the files are listed; data counts once it has stayed the same from one look to the next."""
    look: str = "agents.arrivals:look"
    """What lists a tenant's files, as `module:name`."""


class WebSettings(Group):
    host: str = "127.0.0.1"
    port: PositiveInt = 8080


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path(".tidemill")
    """Where the local stack keeps its data, caches and `stack.json`."""
    config: Path | None = None
    """A TOML file with any of these settings."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    pipelines: str = "agents:PIPELINES"
    """Which pipelines a worker carries, as `module:name`."""
    services: str = "streams.services:open_services"
    """What opens the services that their stages use, as `module:name`."""
    kafka: KafkaSettings = KafkaSettings()
    ledger: LedgerSettings = LedgerSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    redis: RedisSettings = RedisSettings()
    s3: S3Settings = S3Settings()
    ml_engine: MLEngineSettings = MLEngineSettings()
    inference: InferenceSettings = InferenceSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    validation: ValidationSettings = ValidationSettings()
    index: IndexSettings = IndexSettings()
    retry: RetrySettings = RetrySettings()
    runtime: RuntimeSettings = RuntimeSettings()
    quality: QualitySettings = QualitySettings()
    absence: AbsenceSettings = AbsenceSettings()
    arrivals: ArrivalSettings = ArrivalSettings()
    web: WebSettings = WebSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = Path(os.environ.get("TIDEMILL_CONFIG", "tidemill.toml"))
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file), _StackSource(settings_cls))


class _StackSource(PydanticBaseSettingsSource):
    """Addresses of the local stack, when one has written `stack.json` into the home folder."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole mapping is given at once below

    def __call__(self) -> dict[str, Any]:
        path = Path(os.environ.get("TIDEMILL_HOME", ".tidemill")) / "stack.json"
        try:
            return from_stack(json.loads(path.read_text()))
        except (OSError, ValueError):
            return {}


def load(path: str) -> Any:
    """What a setting of the form `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def from_stack(stack: dict[str, Any]) -> dict[str, Any]:
    """The settings that a `stack.json` (shape in docs/architecture.md) stands for."""
    host, _, port = stack["web"].removeprefix("http://").partition(":")
    return {
        "kafka": {"bootstrap": stack["kafka"]},
        "ledger": {"dsn": stack["postgres"]},
        "warehouse": {"dsn": stack["warehouse"]},
        "redis": {"url": stack["redis"]},
        "s3": stack["s3"],
        "ml_engine": {"url": stack["ml_engine"]},
        "inference": {"url": stack["inference"]},
        "monitoring": {"url": stack["monitoring"]},
        "web": {"host": host, "port": int(port.rstrip("/"))},
        "runtime": {"unknown_tenants": "create"},
    }
