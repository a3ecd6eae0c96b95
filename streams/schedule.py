"""When a schedule is due: cron in a time zone, the due times that were missed, and the policy for them. Pure functions.

Times of day that a zone skips in spring fire at the next valid time, and those it repeats in autumn fire once. Where the minute or the
hour begins with `*` the schedule goes by time passed: skipped times are left out, repeated ones fire both times (cronsim's rules, after
Debian's cron). The preview and the tests show it zone by zone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

MOST_MISSED = 10_000
"""Due times made up for after a stop, the newest; a schedule of each minute reaches a week back."""
PROMPT = timedelta(minutes=1)
"""A due time has not been missed until it is later than this; the functions for slots in the ledger say the same."""

YEARS = range(2000, 2200)
"""In which a schedule may start and end."""


class BadSchedule(ValueError):
    """A cron expression or zone nobody can follow; `field` says which."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True, slots=True)
class Rule:
    """The part of a schedule that decides its times."""

    cron: str
    zone: str = "UTC"
    missed: str = "latest"
    catch_up: timedelta = timedelta(days=1)
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    @property
    def by_time_passed(self) -> bool:
        """Whether it fires both times when the clocks show a time twice."""
        return any(field.startswith("*") for field in self.cron.split()[:2])

    def check(self) -> None:
        """Raise `BadSchedule` for what cannot be followed, or is surely not meant."""
        _in_years("ends_at", self.ends_at)
        next(self.after(datetime(2026, 1, 1, tzinfo=UTC)), None)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after `moment` (exclusive), in UTC, from the schedule's start to its end."""
        try:
            zone = ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadSchedule("zone", f"there is no time zone {self.zone!a}; use a name of the IANA database, such as Europe/Berlin") from None
        if len(self.cron.split()) != 5:  # cronsim knows a sixth, of seconds; the timers do not look that often
            raise BadSchedule("cron", f"{self.cron!a} is no cron expression (it has not five fields); such as `0 2 * * *` for 02:00")
        _in_years("starts_at", self.starts_at)
        moment = max(moment, self.starts_at - timedelta(seconds=1)) if self.starts_at else moment
        try:
            times = CronSim(self.cron, moment.astimezone(zone))
        except CronSimError as error:
            raise BadSchedule("cron", f"{self.cron!a} is no cron expression ({error}); five fields, such as `0 2 * * *` for 02:00") from None
        end = self.ends_at.replace(tzinfo=self.ends_at.tzinfo or UTC) if self.ends_at else None  # asyncpg gives infinity without a zone
        for time in times:
            due = time.astimezone(UTC)
            if end and due > end:
                return
            if due > moment:  # within an hour that comes twice, cronsim gives times of its first pass
                yield due


def _in_years(field: str, moment: datetime | None) -> None:
    if moment and moment.year not in YEARS:
        raise BadSchedule(field, f"lies in the year {moment.year}; it may be any from {YEARS[0]} to {YEARS[-1]}, or null for none")


def next_due(rule: Rule, now: datetime) -> datetime | None:
    """The next due time after `now`; None when the schedule is over."""
    return next(rule.after(now), None)


def missed(rule: Rule, due: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The due times to fire at `now` when the next one was `due`, by the policy; and the next one after `now`.

    One that is due just now (nothing in between) fires under every policy. Older ones: `skip` none of them but one that is at most
    a minute late, `latest` the last, `all` every one; none that is older than the catch-up window.
    """
    if due > now:
        return [], due  # the clock was put back: what fired stays fired
    oldest, most = now - rule.catch_up, MOST_MISSED if rule.missed == "all" else 1
    later = _newest(rule, max(due, oldest - timedelta(microseconds=1)), now, most)
    fresh = [*([due] if due >= oldest else []), *later][-most:]
    if rule.missed == "skip":
        fresh = [time for time in fresh if time >= now - PROMPT]
    return fresh, next_due(rule, now)


def _newest(rule: Rule, begin: datetime, now: datetime, most: int) -> list[datetime]:
    """The newest due times after `begin` and up to `now`, `most` of them at least if there are so many; found from the end."""
    span = timedelta(hours=1)
    while True:
        start = max(begin, now - span)
        times = list(takewhile(lambda time: time <= now, rule.after(start)))
        if start == begin or len(times) >= most:
            return times
        span *= 2


class Fire(NamedTuple):
    """A due time as people read it."""

    due: datetime
    local: str
    note: str | None
    """What daylight saving does to it."""


def preview(rule: Rule, now: datetime, count: int) -> list[Fire]:
    """The next fires; the first after a change of the clocks says so."""
    dues, zone = list(islice(rule.after(now), count)), ZoneInfo(rule.zone)
    before, fires = now.astimezone(zone), []
    for due in dues:
        local = due.astimezone(zone)
        fires.append(Fire(due, local.isoformat(timespec="minutes"), _note(rule, before, local)))
        before = local
    return fires


def _note(rule: Rule, before: datetime, local: datetime) -> str | None:
    if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():
        return f"the clocks show this time twice; it fires {'both times' if rule.by_time_passed else 'once'}"
    old, new = before.utcoffset(), local.utcoffset()
    if old is None or new is None or old == new:
        return None
    return f"the clocks were put {'forward' if new > old else 'back'} by {abs(new - old)} since the last"
