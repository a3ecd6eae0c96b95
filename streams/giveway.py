"""What can wait gives way to what somebody waits for: a step by itself goes before ticks and batches, of which a thousand come at once.

All of them share one event loop. So the patient ones take turns, a few at a time, and after each they leave the loop to the others for a while.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LATELY = 1.0
"""Seconds for which a step is a sign that there are others."""
TURNS = 4
"""Patient things under way at a time while there are others."""
PAUSE = 1.5
"""Times as long as the thing itself took."""
LONGEST = 0.5
"""Seconds: a thing that waited for an answer kept nobody from the loop meanwhile."""


class GiveWay:
    """Who is in a hurry says so, who is not takes turns."""

    def __init__(self) -> None:
        self._hurried_at = -math.inf
        self._turns = asyncio.Semaphore(TURNS)
        self._waiting = 0

    def hurried(self) -> None:
        """A step begins that nobody gathers."""
        self._hurried_at = asyncio.get_running_loop().time()

    @property
    def others(self) -> bool:
        """Whether somebody was in a hurry lately."""
        return asyncio.get_running_loop().time() - self._hurried_at < LATELY

    @property
    def crowded(self) -> bool:
        """Whether patient things wait for their turn."""
        return self._waiting > 0

    async def pause(self, since: float, times: float) -> None:
        """Leave the loop to the others, if there are any, for so many times as long as what was done since then (loop time) took, up to `LONGEST`."""
        if self.others:
            await asyncio.sleep(min(times * (asyncio.get_running_loop().time() - since), LONGEST))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Do something patient in the block: at once when nobody is in a hurry, else a few at a time, with pauses."""
        if not self.others:
            yield
            return
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            began = asyncio.get_running_loop().time()
            yield
            await self.pause(began, PAUSE)
        finally:
            self._turns.release()
