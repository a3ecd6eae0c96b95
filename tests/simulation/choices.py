"""One seed decides everything that could go one way or another; what was decided is kept for whoever has to understand a failure."""

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")


class Choices:
    """The dice of one seed. Faults are `chance`; once `calm`, none comes any more."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.calm = False
        self.trace: deque[str] = deque(maxlen=600)

    def chance(self, probability: float) -> bool:
        """Whether a fault happens here."""
        return not self.calm and probability > 0 and self._random.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[self._random.randrange(len(options))]

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def number(self, low: int, high: int) -> int:
        """Both ends included."""
        return self._random.randint(low, high)

    def uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def shuffle(self, items: list[T]) -> None:
        self._random.shuffle(items)

    def note(self, at: float, what: str) -> None:
        self.trace.append(f"{at:9.3f} {what}")
