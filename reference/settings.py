"""What a neighbour is told by its environment: where it listens, where it keeps its state, whom it talks to."""

from pathlib import Path

from pydantic import Field, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

TRAINING_BUCKET = "embeddings-training-data"
MODELS_BUCKET = "embeddings-models"
INDICES_BUCKET = "embeddings-indices"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ReferenceSettings(BaseSettings):
    """Settings of one neighbour; every field is `REFERENCE_…` in the environment."""

    model_config = SettingsConfigDict(env_prefix="REFERENCE_", frozen=True)

    host: str = "127.0.0.1"
    port: PositiveInt = 8000
    data: Path = Path(".tidemill/reference")
    """Folder of the journal and of all other state; one process a service and folder."""
    kafka: str = "127.0.0.1:20092"
    s3_endpoint: str | None = "http://127.0.0.1:20333"
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:20379/0")
    warehouse: SecretStr = SecretStr("postgresql://tidemill@127.0.0.1:20432/warehouse")
    """The tenants' tables, where `reference.warehouse` fills them."""
    allow_faults: bool = False
    """Whether `/_faults` may be used to make this neighbour misbehave."""
    allowed_hosts: str = ""
    """Further names, separated by commas, by which the service may be addressed (a container's name, for instance)."""
    callbacks: bool = True
    """Off: the ML Engine tells nobody that a job ended, so that only the watcher's poll finds out."""
    jobs: PositiveInt = 2
    """Jobs the ML Engine works on at a time; the others are pending."""
    max_body: PositiveInt = Field(default=10 << 20)
    """Bytes of a request body; more is answered with 413."""

    @property
    def hosts(self) -> frozenset[str]:
        """The names the Host header may carry, without the port."""
        return LOOPBACK | {self.host} | {name.strip() for name in self.allowed_hosts.split(",") if name.strip()}
