"""Turns what clients raise when a server is away into the sentence that names it; status 3."""

from urllib.parse import urlsplit

import asyncpg

from streams.cli.refusal import NOT_THERE, CliError
from streams.ledger.connection import is_outage
from streams.settings import Settings


def of_ledger(error: Exception, settings: Settings) -> CliError | None:
    """The trouble with the ledger, if that is what it is."""
    where = _place(settings.ledger.dsn.get_secret_value(), 5432)
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedFunctionError | asyncpg.UndefinedColumnError):
        return CliError("ledger_empty", f"the database at {where} has not the ledger's schema; run `tidemill init`", NOT_THERE)
    if isinstance(error, asyncpg.InvalidCatalogNameError | asyncpg.InvalidAuthorizationSpecificationError):
        sentence = f"PostgreSQL at {where} refuses us ({type(error).__name__}); correct the setting ledger.dsn (TIDEMILL_LEDGER__DSN)"
        return CliError("ledger_refused", sentence, NOT_THERE)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return CliError("bad_setting", "ledger.dsn is not a PostgreSQL address; it looks like postgresql://user:password@host:port/database", 2)
    if is_outage(error):
        return CliError("ledger_away", f"PostgreSQL at {where} does not answer; is `tidemill up` running?", NOT_THERE)
    return None


def of_setup(error: Exception, settings: Settings) -> CliError | None:
    """The trouble of `tidemill init`, which speaks to three servers with four libraries."""
    library = type(error).__module__.partition(".")[0]
    if library == "aiokafka":
        return CliError("kafka_away", f"Kafka at {settings.kafka.bootstrap} does not answer; is `tidemill up` running?", NOT_THERE)
    if library == "botocore":
        sentence = (
            f"S3 at {settings.s3.endpoint or 'AWS'} cannot be used ({type(error).__name__}); is `tidemill up` running, and are the s3 settings right?"
        )
        return CliError("s3_away", sentence, NOT_THERE)
    if library in ("sqlalchemy", "psycopg") and type(error).__name__ == "OperationalError":
        return of_ledger(ConnectionError(), settings)
    return of_ledger(error, settings)


def _place(address: str, port: int) -> str:
    """Host and port of an address that may hold a password."""
    try:
        parts = urlsplit(address)
        return f"{parts.hostname or 'localhost'}:{parts.port or port}"
    except ValueError:
        return "the address in the setting ledger.dsn"
