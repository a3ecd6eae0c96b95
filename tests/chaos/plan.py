"""Which faults come next: rounds in turns by what is still missing most, and in a lane the fault that was injected least."""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.faults import LANES

Pause = tuple[float, float]
"""Seconds from one fault of a lane to the next: at least, and at most."""
SHORT, SOME, LONG = (0.0, 0.8), (0.3, 1.5), (2.0, 6.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of round: what is injected side by side, and for how many seconds."""

    name: str
    lanes: dict[str, Pause]
    goal: tuple[str, ...]
    """The lanes for whose sake it is played; the others come along."""
    seconds: float


KINDS = (
    Kind("kills", {"kills": SHORT}, ("kills",), 150),
    Kind("workers", {"workers": SOME, "neighbours": SOME, "store": SOME}, ("workers", "neighbours", "store"), 90),
    Kind("servers", {"broker": SOME, "postgres": SOME, "neighbours": SOME, "store": SOME, "kills": LONG}, ("broker", "postgres"), 100),
)


Lane = tuple[Iterator[str], Pause]
"""The faults that are injected one after another, and the pauses between them."""


class Plan:
    """Chooses by the seed and by what has been injected so far."""

    def __init__(self, chosen: Collection[str], *, kills: int, each: int, dice: random.Random) -> None:
        self._lanes = {name: [fault for fault in lane if fault in chosen] for name, lane in LANES.items()}
        self._goals = {fault: kills if fault == "kill9_worker" else each for fault in chosen}
        self._dice = dice
        self.injected: Counter[str] = Counter()

    def next(self) -> tuple[Kind, list[Lane]]:
        """The kind of round that is furthest from its goal, and what its lanes inject."""
        kinds = [kind for kind in KINDS if self._of(kind.goal)]
        kind = min(kinds, key=lambda kind: (self._progress(kind), self._dice.random()))
        return kind, [(self._least(self._lanes[lane]), pause) for lane, pause in kind.lanes.items() if self._lanes[lane]]

    def _of(self, lanes: Sequence[str]) -> list[str]:
        return [fault for lane in lanes for fault in self._lanes[lane]]

    def _progress(self, kind: Kind) -> float:
        return min(self.injected[fault] / self._goals[fault] for fault in self._of(kind.goal))

    def _least(self, faults: list[str]) -> Iterator[str]:
        while True:
            yield min(faults, key=lambda fault: (self.injected[fault], self._dice.random()))
