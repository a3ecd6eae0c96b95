"""Bring the ledger's schema up to date: Alembic over plain SQL files, safe to run from any number of processes at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

_LOCK = 7411_2026  # one advisory lock for all who migrate


def migrate(dsn: str) -> None:
    """Apply what is missing, under an advisory lock. `dsn`: postgresql://user:password@host:port/database."""
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": _LOCK})
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
            connection.commit()
    finally:
        engine.dispose()
