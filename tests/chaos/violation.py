"""What the checker says of a broken promise."""

from enum import StrEnum
from typing import NamedTuple


class Harm(StrEnum):
    LOST = "lost"  # something accepted is gone, or never came to its end
    DOUBLED = "doubled"  # something happened more often than it was allowed to
    WRONG = "wrong"  # two records of one thing disagree, or somebody else's was touched


class Violation(NamedTuple):
    """One broken promise: which invariant, what kind of harm, and a sentence with the evidence."""

    invariant: str
    harm: Harm
    sentence: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.harm}: {self.sentence}"
