"""When nothing new may be asked for: one question to the ledger, for the API, the CLI and whatever asks by itself."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger(__name__)

Fetch = Callable[..., Awaitable[Any]]
_HOLD = "select code, sentence from hold($1)"


class Hold(NamedTuple):
    """Why not now: `reconciling` (the ledger was set back) or `outbox_full` (too much waits for Kafka)."""

    code: str
    sentence: str


async def hold(fetch: Fetch, most: int) -> Hold | None:
    """What holds everything new back, above `most` rows of the outbox among others; as a rule None. Two look-ups in an index."""
    rows = await fetch(_HOLD, most)
    return Hold(*rows[0]) if rows else None


class Gate:
    """The same question for a loop that has something to ask for: what is due stays due while it is shut, and the log says so once."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most = what, most
        self._said: str | None = None

    async def shut(self, fetch: Fetch) -> bool:
        """Whether to wait."""
        held = await hold(fetch, self._most)
        code = held.code if held else None
        if held and code != self._said:
            log.warning(f"{self._what} hold", code=code, reason=held.sentence)
        elif self._said and not held:
            log.info(f"{self._what} go on", after=self._said)
        self._said = code
        return held is not None
