"""What a stage is told when it asks the ledger and the ledger is away: to wait for it, at no cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from streams.ledger.connection import is_conflict, is_outage
from streams.stage import TryAgain

SOON = timedelta(seconds=5)


@contextmanager
def needed() -> Iterator[None]:
    """Around what goes over a connection to the ledger and nothing else: a plain OSError or TimeoutError counts as its outage here."""
    try:
        yield
    except Exception as error:
        if not (is_outage(error) or is_conflict(error)):
            raise
        sentence = "the ledger (PostgreSQL) does not answer the stage; it is tried again, at no cost, as soon as it does"
        raise TryAgain(sentence, code="ledger_away", after=SOON, free=True, waiting_for="ledger") from error
