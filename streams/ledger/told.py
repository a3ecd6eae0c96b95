"""A row of the outbox, made of what the ledger was given and the numbers it gave: nothing is read back to be published."""

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

Item = dict[str, Any]


def told(
    item: Item, row_id: int, event_id: UUID, topic: str, seq: int, now: datetime, data: Any, *, causation: UUID | None = None, state: bool = True
) -> Item:
    """The row that stands in the outbox, about the item's run; `state`: the run's state is to follow it."""
    return {
        "id": row_id,
        "event_id": str(event_id),
        "topic": topic,
        "tenant_id": item["tenant"],
        "run_id": str(item["run_id"]),
        "causation": str(causation) if causation else None,
        "seq": seq,
        "at": now.isoformat(),
        "traceparent": item.get("traceparent"),
        "value": orjson.dumps(data).decode(),
        "state": state,
    }
