"""The circuit breaker of one neighbour: while it is down, steps wait at no cost and only probes are sent (DECISIONS 18)."""

import asyncio
import math
import random
from datetime import timedelta
from types import TracebackType
from typing import Self

from streams.stage import TryAgain

FAILURES_TO_OPEN = 5
SILENCES_TO_OPEN = 3
"""Calls in a row without any answer within their time: fewer than the attempts of one run, which may be the only one that calls."""
FIRST_COOL_DOWN, LONGEST_COOL_DOWN = 2.0, 30.0
FULL_TRAFFIC = 64
"""The ramp after an outage: one probe, then twice as many calls at a time after each success, up to this; then no bound."""


class Failed(Exception):
    """Raised inside `Breaker.guard`: the neighbour did not answer, or answered that it is broken."""

    whose: str | None = None
    """To whose call it answered so; None: it gave no answer."""


class Breaker:
    """Closed: calls pass. Open: none does until the cool-down is over. Then one probe at a time, then a ramp."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._failures = 0
        self._failed: set[str | None] = set()
        self._silences = 0
        self._heard_at = -math.inf
        self._cool_down = 0.0
        self._opened_until: float | None = None
        self._room: int | None = None
        self._in_flight = 0

    @property
    def open(self) -> bool:
        """Whether the neighbour is taken to be down."""
        return self._opened_until is not None

    def guard(self) -> Self:
        """Let one send through, or raise a free `TryAgain`. `Failed` counts against the neighbour, no exception for it, others do neither."""
        return self  # which is the context manager: contextlib costs a generator each time

    def __enter__(self) -> None:
        left = (self._opened_until or 0.0) - _now()
        full = self._room is not None and self._in_flight >= self._room
        if left <= 0 and not full:
            self._in_flight += 1
            return
        wait = max(left, 0.5) * random.uniform(1.0, 1.5)  # spreads those who wait
        raise TryAgain(
            f"{self.name} does not answer; the step waits for it and loses no attempt; look at the {self.name} service",
            code=f"{self.name}_down",
            after=timedelta(seconds=wait),
            free=True,
            waiting_for=self.name,
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._in_flight -= 1
        if kind is None:
            self._succeeded()
        elif isinstance(error, Failed):
            self.count_failure(error.whose)

    def count_silence(self) -> None:
        """A call was cut off at its deadline."""
        self._silences += 1
        self.count_failure()

    def silent_since(self, began: float) -> bool:
        """Whether the neighbour is taken to be down, or has answered nobody here since then: each worker sees but a part of a lone run's attempts."""
        return self.open or self._heard_at < began

    def count_failure(self, whose: str | None = None) -> None:
        """The neighbour failed once more."""
        if whose is not None:
            self._heard_at = _now()
        self._failures += 1
        if not self.open:
            self._failed.add(whose)
        late = self._opened_until is not None and _now() < self._opened_until  # sent before it opened: says nothing new
        if (not self._suspect() and self._room is None) or late:
            return
        self._cool_down = min(self._cool_down * 2, LONGEST_COOL_DOWN) if self._room is not None else FIRST_COOL_DOWN
        self._opened_until, self._room = _now() + self._cool_down, 1

    def _suspect(self) -> bool:
        """Whether so many failures are the neighbour's own: errors answered to one run alone may be that run's, and cost its attempts."""
        many = self._failures >= FAILURES_TO_OPEN and (len(self._failed) > 1 or None in self._failed)
        return many or self._silences >= SILENCES_TO_OPEN

    def _succeeded(self) -> None:
        self._heard_at = _now()
        if self._opened_until is not None and _now() < self._opened_until:
            return  # an answer to a call from before the outage
        self._failures, self._silences, self._opened_until = 0, 0, None
        self._failed.clear()
        if self._room is not None:
            self._room = self._room * 2 if self._room < FULL_TRAFFIC else None


def _now() -> float:
    return asyncio.get_running_loop().time()
