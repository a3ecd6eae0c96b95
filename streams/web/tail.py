"""Reads the tail of a tenant's journal, for the event streams."""

from typing import Any

from streams.ledger.connection import Connection

PAGE = 200
"""Entries read at a time."""
_HEAD = "select seq from tenant_heads where tenant_id = $1"
_TAIL = "select seq, at, run_id, kind, topic, event_id, causation, data from journal where tenant_id = $1 and seq > $2 order by seq limit $3"


class Journal:
    """Reads tenants' journals from a number on, over a connection of its own: a hundred polling streams must not delay a page."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.open = 0

    async def head(self, tenant: str) -> int | None:
        """The number of the newest entry; None when there is no such tenant."""
        value = await self._connection.value(_HEAD, tenant)
        return None if value is None else int(value)

    async def after(self, tenant: str, seq: int) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._connection.fetch(_TAIL, tenant, seq, PAGE)]
