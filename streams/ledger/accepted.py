"""What a usual request put into the outbox, made of the request itself and the numbers that the ledger gave it: nothing is read back."""

from datetime import datetime
from typing import Any

import orjson

Item = dict[str, Any]


def answer(item: Item, row: Any, now: datetime) -> Item:
    """What became of an item that `accept_usual` carried out for a caller that leases nothing, as `accept_request` would say it."""
    value = {
        "tenant_id": item["tenant"],
        "run_id": item["run_id"],
        "pipeline": item["pipeline"],
        "pipeline_version": item["version"],
        "causes": [item["event_id"]],
        "round": 1,
    }
    asked = _told(item, row["asked_outbox"], item["event_id"], item["topic"], None, row["seq"] - 1, item["data"], now)
    told = _told(item, row["outbox_id"], item["accepted_id"], "run.accepted", item["event_id"], row["seq"], value, now)
    return {"result": "run", "run_id": str(item["run_id"]), "outbox": [asked, told | {"state": True}]}


def _told(item: Item, row_id: int, event_id: Any, topic: str, causation: Any, seq: int, data: Item, now: datetime) -> Item:
    """The row that stands in the outbox."""
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
        "state": False,
    }
