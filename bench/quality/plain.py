"""The plain way, for comparison: Great Expectations with queries of its own, tenant by tenant and table by table. Prints seconds as JSON.

`python -m bench.quality.plain DSN TENANT …`: one context and one connection pool for all; the import and the first, warming tenant do not count.
"""

import json
import os
import sys
import time
from typing import Any

TYPES = ["view", "click", "purchase", "like", "share"]
REQUIRED = {
    "users": ("user_id", "created_at"),
    "items": ("item_id", "content", "created_at"),
    "user_interactions": ("user_id", "item_id", "interaction_type", "timestamp"),
}
ORPHANS = {
    "item_id": "select u.item_id from user_interactions u where u.tenant_id = '{0}' and not exists "
    "(select 1 from items i where i.tenant_id = u.tenant_id and i.item_id = u.item_id)",
    "user_id": "select u.user_id from user_interactions u where u.tenant_id = '{0}' and not exists "
    "(select 1 from users p where p.tenant_id = u.tenant_id and p.user_id = u.user_id)",
}


class Plain:
    """A suite a table, and two queries that should give no row."""

    def __init__(self, dsn: str) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        import great_expectations.expectations as gxe

        self._gx: Any = gx
        self._gxe: Any = gxe  # exports more than it says
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
        self._source = context.data_sources.add_sql("warehouse", connection_string=dsn.replace("postgresql://", "postgresql+psycopg://"))

    def judge(self, tenant: str) -> int:
        """All of one tenant's tables; how many expectations were answered."""
        answered = 0
        for table, columns in REQUIRED.items():
            query = f"select * from {table} where tenant_id = '{tenant}'"  # as people write it; the tenants here are our own
            answered += self._validate(f"{table} of {tenant}", query, self._suite(table, columns))
        for column, query in ORPHANS.items():
            empty = [self._gxe.ExpectTableRowCountToEqual(value=0)]
            answered += self._validate(f"{column} of {tenant}", query.format(tenant), empty)
        return answered

    def _suite(self, table: str, columns: tuple[str, ...]) -> list[Any]:
        gxe, time_column = self._gxe, "timestamp" if table == "user_interactions" else "created_at"
        suite = [gxe.ExpectColumnToExist(column=column) for column in columns]
        suite += [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]
        suite += [gxe.ExpectTableRowCountToBeBetween(min_value=1), gxe.ExpectColumnMaxToBeBetween(column=time_column, min_value="2020-01-01")]
        if table == "user_interactions":
            suite += [
                gxe.ExpectColumnValuesToBeInSet(column="interaction_type", value_set=TYPES),
                gxe.ExpectCompoundColumnsToBeUnique(column_list=["user_id", "item_id", "interaction_type", "timestamp"]),
                gxe.ExpectColumnUniqueValueCountToBeBetween(column="user_id", min_value=1),
                gxe.ExpectColumnUniqueValueCountToBeBetween(column="item_id", min_value=1),
            ]
        return suite

    def _validate(self, name: str, query: str, expectations: list[Any]) -> int:
        batch = self._source.add_query_asset(name, query=query).add_batch_definition_whole_table("all").get_batch()
        outcome = batch.validate(self._gx.ExpectationSuite(name=name, expectations=expectations))
        for result in outcome.results:
            if not result.success or result.exception_info.get("raised_exception"):
                raise RuntimeError(f"{name}: {result}")
        return len(outcome.results)


def main() -> None:
    dsn, first, *tenants = sys.argv[1:]
    plain = Plain(dsn)
    plain.judge(first)
    took = []
    for tenant in tenants:
        began = time.monotonic()
        answered = plain.judge(tenant)
        took.append(time.monotonic() - began)
    print(json.dumps({"seconds": took, "expectations": answered}))


if __name__ == "__main__":
    main()
