"""Long loops on the event loop: what each turn takes is little, and whoever else has something to do comes in between."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def calmly(each: Iterable[T]) -> AsyncIterator[T]:
    """One after the other."""
    for one in each:
        yield one
        await asyncio.sleep(0)
