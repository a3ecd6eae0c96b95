"""One clock for all due logic: the database's time, sampled and carried on by the monotonic clock, plus a test offset kept in the ledger."""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Gives `$now` for every statement about due times. Leases do not use it: they run on the database's real clock alone."""

    def __init__(self) -> None:
        self._sample = (datetime.now(UTC), time.monotonic())  # one tuple: the heartbeat's thread sets it, everybody reads it

    def now(self) -> datetime:
        at, mark = self._sample
        return at + timedelta(seconds=time.monotonic() - mark)

    def set(self, database_now: datetime, ahead: timedelta) -> None:
        """Take a sample: the database's time a moment ago and the test offset."""
        self._sample = (database_now + ahead, time.monotonic())
