"""Where everything of a running stack listens: the shape of `stack.json`, and the same as environment variables."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from streams.local.home import write_private


class S3Address(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    access_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)


class Addresses(BaseModel):
    """`stack.json`; `streams.settings.from_stack` turns it into settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka: str
    postgres: str = Field(repr=False)
    """DSN of the ledger, password included: shown in no log and no error."""
    warehouse: str = Field(repr=False)
    redis: str
    s3: S3Address
    ml_engine: str
    inference: str
    monitoring: str
    web: str

    def write(self, file: Path) -> None:
        write_private(file, self.model_dump_json(indent=2) + "\n")

    def environment(self) -> dict[str, str]:
        """For our own processes that start before `stack.json` is there."""
        return {
            "TIDEMILL_KAFKA__BOOTSTRAP": self.kafka,
            "TIDEMILL_LEDGER__DSN": self.postgres,
            "TIDEMILL_WAREHOUSE__DSN": self.warehouse,
            "TIDEMILL_REDIS__URL": self.redis,
            "TIDEMILL_S3__ENDPOINT": self.s3.endpoint,
            "TIDEMILL_S3__ACCESS_KEY": self.s3.access_key,
            "TIDEMILL_S3__SECRET_KEY": self.s3.secret_key,
            "TIDEMILL_ML_ENGINE__URL": self.ml_engine,
            "TIDEMILL_INFERENCE__URL": self.inference,
            "TIDEMILL_MONITORING__URL": self.monitoring,
            "TIDEMILL_WEB__PORT": self.web.rsplit(":", 1)[1],
        }
