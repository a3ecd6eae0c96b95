"""One tenant's rows, looked at one by one on demand: a bounded sample, offenders first, validated by Great Expectations row for row."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from expectations.judge import great_expectations_parts, refuse_unasked
from expectations.named import statements
from expectations.warehouse import Warehouse

SAMPLE = 2000
"""Rows that are looked at: half of them offenders, half the newest."""
SHOWN = 20


@dataclass(frozen=True, slots=True)
class RowFinding:
    """One expectation over the sample, with the keys of some rows that break it."""

    expectation: str
    column: str
    broken: int
    of: int
    rows: list[dict[str, Any]]


async def sample(warehouse: Warehouse, tenant_id: str, types: tuple[str, ...], now: datetime, tolerance: timedelta) -> list[dict[str, Any]]:
    """Interactions of this tenant alone: those that break a rule, and the newest ones."""
    async with warehouse.snapshot() as connection:
        await warehouse.become_reader(connection)
        rows = await connection.fetch(statements("rows.sql")["sample"], tenant_id, list(types), now + tolerance, SAMPLE // 2)
    return [{name: value.isoformat() if isinstance(value, datetime) else value for name, value in dict(row).items()} for row in rows]


def validate(rows: list[dict[str, Any]], types: tuple[str, ...]) -> list[RowFinding]:
    """What Great Expectations says of the sample. Imports the library, so it belongs into a child process."""
    if not rows:
        return []
    import pandas as pd

    gx, gxe, batches = great_expectations_parts()
    asked = [
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in ("user_id", "item_id", "interaction_type", "timestamp")),
        gxe.ExpectColumnValuesToBeInSet(column="interaction_type", value_set=list(types)),
        *(gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True]) for column in ("item_exists", "user_exists", "in_time")),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["user_id", "item_id", "interaction_type", "timestamp"]),
    ]
    frame = pd.DataFrame(rows)
    batch = batches.get_batch({"dataframe": frame})
    outcome = batch.validate(gx.ExpectationSuite(name="rows", expectations=asked), result_format={"result_format": "COMPLETE"})
    return [_finding(result, frame) for result in outcome.results]


def _finding(result: Any, frame: Any) -> RowFinding:
    refuse_unasked(result.expectation_config.type, result.exception_info)
    places = result.result.get("unexpected_index_list") or []
    keys = frame.iloc[places[:SHOWN]][["user_id", "item_id", "interaction_type", "timestamp"]].to_dict("records")
    kwargs = result.expectation_config.kwargs
    column = kwargs.get("column") or ", ".join(kwargs.get("column_list", []))
    shown = [{name: None if value != value else value for name, value in key.items()} for key in keys]  # NaN is how pandas says null
    return RowFinding(result.expectation_config.type, column, len(places), len(frame), shown)
