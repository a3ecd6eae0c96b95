"""The usual commits of a batch as the columns that the SQL function `hand_over` takes, and its rows as answers: the shape of the hot path."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from streams.ledger.told import told

Item = dict[str, Any]
SQL = "select * from hand_over($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"


def one_a_tenant(items: Sequence[Item]) -> list[Item]:
    """The first of each tenant: the statement numbers a tenant's entries once."""
    return list({item["tenant"]: item for item in reversed(items)}.values())


def columns(usual: Sequence[Item], now: datetime) -> list[Any]:
    """The arguments of `hand_over`."""
    following = [item["next"] for item in usual]
    return [
        [item["run_id"] for item in usual],
        [item["tenant"] for item in usual],
        [item["stage"] for item in usual],
        [item["fence"] for item in usual],
        [item["output"] for item in usual],
        [item["output_type"] for item in usual],
        [item["event_id"] for item in usual],
        [after["stage"] if after else None for after in following],
        [after.get("hold", 0.0) if after else 0.0 for after in following],
        [item["next_worker"] is not None for item in usual],
        [item["finish_id"] for item in usual],
        [{"all": item["effects"]} for item in usual],  # a list in a list would be an array of two dimensions
        usual[0]["worker"],
        now,
    ]


def answer(item: Item, row: Any, now: datetime) -> Item:
    """What became of an item that `hand_over` carried out, as `commit_step` would say it."""
    given = told(item, row["outbox_id"], item["event_id"], item["output_type"], row["seq"], now, item["output"], causation=item["input_id"])
    if row["finished"] is not None:
        over = told(item, row["finished_outbox"], item["finish_id"], "run.finished", row["seq"] + 1, now, row["finished"])
        return {"result": "finished", "outbox": [given, over]}
    result: Item = {"result": "next", "outbox": [given]}
    if row["leased"]:
        result["begun"] = (row["next_round"], row["next_fence"])
    return result
