"""Looks at all tenants: what keeps one from its end is said."""

import asyncio
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from streams.looks import now_and_then


class Answering:
    """A ledger that says it is our turn."""

    async def value(self, sql: str, *args: Any) -> bool:
        return True

    async def drop(self) -> None: ...


async def test_a_look_that_takes_longer_than_a_statement_may_is_said() -> None:
    looked = asyncio.Event()

    async def look() -> None:
        looked.set()
        raise TimeoutError

    with capture_logs() as logs:
        task = asyncio.create_task(now_and_then(Answering(), "absence", timedelta(minutes=1), look))  # type: ignore[arg-type]
        await looked.wait()
        task.cancel()
    assert [(each["log_level"], each["code"], each["look"]) for each in logs] == [("warning", "look_timed_out", "absence")]
