"""What is usual: a robust z-score against what a tenant had at the same hour of earlier weeks, after a warm-up that says so."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""
_LEAST_SHARE = 0.05
"""Of the median: numbers that never varied would otherwise make every change infinitely unusual."""
HOURS = 168


def hour_of_week(at: datetime) -> int:
    """0 is Monday from midnight to one, UTC."""
    return at.weekday() * 24 + at.hour


def week(at: datetime) -> str:
    """The Monday of the week: a second measurement in the same hour replaces the first."""
    return (at - timedelta(days=at.weekday())).date().isoformat()


def z_score(value: float, samples: Sequence[float]) -> float:
    """How many robust standard deviations the value lies from the median."""
    usual = median(samples)
    spread = _TO_SIGMA * median(abs(sample - usual) for sample in samples)
    return (value - usual) / max(spread, _LEAST_SHARE * abs(usual), 1.0)


def judge(value: float, earlier: Mapping[str, float], now: datetime, warm_up: int) -> tuple[float | None, float | None, int]:
    """(z-score, the usual number, weeks known); no score before the warm-up is over. This week's own sample does not count."""
    samples = [sample for monday, sample in earlier.items() if monday != week(now)]
    if len(samples) < warm_up:
        return None, None, len(samples)
    return round(z_score(value, samples), 2), median(samples), len(samples)
