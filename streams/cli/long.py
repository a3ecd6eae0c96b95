"""A connection to the ledger for verbs whose statements take their time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from streams.cli.refusal import CliError

if TYPE_CHECKING:
    import asyncpg

    from streams.settings import Settings

LONG = 3600.0
"""Seconds one statement may take here."""


@asynccontextmanager
async def open_ledger(settings: "Settings") -> "AsyncIterator[asyncpg.Connection[Any]]":
    """A connection for statements that take their time; an absent ledger ends the command with status 3."""
    from streams.cli.trouble import of_ledger
    from streams.ledger.connection import connect

    raw = None
    try:
        raw = await connect(settings.ledger.dsn.get_secret_value(), timeout=LONG, name="tidemill-proof")
        yield raw
    except CliError:
        raise
    except Exception as error:
        if trouble := of_ledger(error, settings):
            raise trouble from None
        raise
    finally:
        if raw is not None:
            await raw.close()
