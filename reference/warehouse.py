"""`python -m reference.warehouse fill|mend …`: the watched tables of made-up tenants, one of them spoiled in known ways, and its repair.

The rows are the interactions that `reference.seed` kept, moved so that the newest is two minutes old. For the spoiled tenant
FOLDER/TENANT/defects.json says what was put in: {name of the check that must find it: rows}.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import pyarrow.parquet as pq

from reference.settings import ReferenceSettings

Row = tuple[str | None, str | None, str | None, datetime, str, datetime]
_ALLOWED = {"cart": "add_to_cart"}
_COLUMNS = {
    "users": ("user_id", "tenant_id", "created_at"),
    "items": ("item_id", "tenant_id", "content", "created_at"),
    "user_interactions": ("user_id", "item_id", "interaction_type", "timestamp", "tenant_id", "created_at"),
}
_KNOWN = "insert into tenants (tenant_id, name) values ($1, $2) on conflict (tenant_id) do nothing"
_TRAINED = """
insert into model_training_runs (run_id, tenant_id, status, started_at, completed_at) values ($1, $2, 'succeeded', $3, $3)
on conflict (run_id) do update set completed_at = excluded.completed_at
"""
_MEND = """
with ranked as (
    select u.ctid as place, row_number() over (partition by u.user_id, u.item_id, u.interaction_type, u."timestamp") > 1 as twin,
           u.item_id is null or u.interaction_type = 'teleport' or u."timestamp" > now() + interval '5 minutes'
           or not exists (select 1 from items i where i.tenant_id = u.tenant_id and i.item_id = u.item_id) as bad
    from user_interactions u where u.tenant_id = $1
)
delete from user_interactions u using ranked r where u.tenant_id = $1 and u.ctid = r.place and (r.twin or r.bad)
"""


def spoiled(rows: Sequence[Row], now: datetime) -> tuple[list[Row], dict[str, int]]:
    """Rows to be added, each with one defect, and which check must count how many of them."""
    good = rows[: min(len(rows), 400)]
    size = len(good)
    made: dict[str, list[Row]] = {
        "user_interactions.item_id.complete": [(row[0], None, *row[2:]) for row in good[: size * 2 // 5]],
        "user_interactions.items": [(row[0], f"gone-{number:04}", *row[2:]) for number, row in enumerate(good[: size // 4])],
        "user_interactions.types": [(*row[:2], "teleport", *row[3:]) for row in good[: size * 3 // 5]],
        "user_interactions.future": [(*row[:3], now + timedelta(days=1, seconds=number), *row[4:]) for number, row in enumerate(good[: size // 5])],
        "user_interactions.unique": list(good[: size // 3]),
    }
    return [row for each in made.values() for row in each], {check: len(each) for check, each in made.items()}


async def fill(connection: "asyncpg.Connection[Any]", tenant: str, folder: Path, *, dirty: bool) -> None:
    """The tenant's rows in place of those it had, in one transaction."""
    now = datetime.now(UTC)
    interactions = await asyncio.to_thread(_interactions, tenant, folder, now)
    users, items = ({row[place] for row in interactions} for place in (0, 1))
    if dirty:
        more, defects = spoiled(interactions, now)
        interactions += more
        await asyncio.to_thread((folder / "defects.json").write_text, json.dumps(defects))
    rows: dict[str, list[Any]] = {
        "users": [(user, tenant, now - timedelta(days=100)) for user in sorted(users, key=str)],
        "items": [(item, tenant, item, now - timedelta(hours=1 + n % 90)) for n, item in enumerate(sorted(items, key=str))],
        "user_interactions": interactions,
    }
    async with connection.transaction():
        for table, columns in _COLUMNS.items():
            await connection.execute(f"delete from {table} where tenant_id = $1", tenant)  # a name of this file, not of anybody's input
            await connection.copy_records_to_table(table, records=rows[table], columns=columns)
        await connection.execute(_KNOWN, tenant, tenant.title())
        await connection.execute(_TRAINED, uuid5(NAMESPACE_URL, f"trained before:{tenant}"), tenant, now - timedelta(hours=12))


def _interactions(tenant: str, folder: Path, now: datetime) -> list[Row]:
    kept = [tuple(row.values()) for row in pq.read_table(folder / "train.parquet").to_pylist()]
    times = [datetime.fromisoformat(row[3]) for row in kept]
    ahead = now - timedelta(minutes=2) - max(times)
    return [(user, item, _ALLOWED.get(kind, kind), at + ahead, tenant, at + ahead) for (user, item, kind, _), at in zip(kept, times, strict=True)]


async def mend(connection: "asyncpg.Connection[Any]", tenant: str) -> int:
    """Delete what is wrong with the tenant's interactions; how many rows."""
    return int((await connection.execute(_MEND, tenant)).removeprefix("DELETE "))


async def main() -> None:
    parser = argparse.ArgumentParser(prog="reference.warehouse", description="Fill the watched tables for made-up tenants, or mend one tenant's.")
    parser.add_argument("what", choices=("fill", "mend"))
    parser.add_argument("--keep", type=Path, required=True, help="the folder that reference.seed kept")
    parser.add_argument("--dirty", metavar="TENANT", help="who is spoiled")
    parser.add_argument("tenants", nargs="+", metavar="TENANT")
    given = parser.parse_args()
    connection = await asyncpg.connect(ReferenceSettings().warehouse.get_secret_value())
    try:
        for tenant in given.tenants:
            if given.what == "fill":
                await fill(connection, tenant, given.keep / tenant, dirty=tenant == given.dirty)
            else:
                await mend(connection, tenant)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
