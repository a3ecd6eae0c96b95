"""What a usual request put into the outbox, made of the request itself and the numbers that the ledger gave it: nothing is read back."""

from datetime import datetime
from typing import Any

from streams.ledger.told import told

Item = dict[str, Any]


def asked(item: Item, row: Any, now: datetime) -> Item:
    """The request itself, of an item that `accept_usual` carried out for a caller that leases nothing."""
    return told(item, row["asked_outbox"], item["event_id"], item["topic"], row["seq"] - 1, now, item["data"], state=False)


def accepted(item: Item, row: Any, now: datetime) -> Item:
    """That it became a run, as `accept_request` would say it."""
    value = {
        "tenant_id": item["tenant"],
        "run_id": item["run_id"],
        "pipeline": item["pipeline"],
        "pipeline_version": item["version"],
        "causes": [item["event_id"]],
        "round": 1,
    }
    return told(item, row["outbox_id"], item["accepted_id"], "run.accepted", row["seq"], now, value, causation=item["event_id"])
