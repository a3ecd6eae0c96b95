"""Long loops on the event loop: what each turn takes is little, and whoever else has something to do comes in between."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def calmly(each: Iterable[T], *, at_once: int = 1) -> AsyncIterator[T]:
    """One after the other; the others come in after so many."""
    for n, one in enumerate(each, 1):
        yield one
        if n % at_once == 0:
            await asyncio.sleep(0)
