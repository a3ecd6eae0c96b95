"""Generated tenants: clean ones with seeded defects whose number is known, and wild ones whose defects an independent count in Python finds."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
TYPES = ("view", "click", "purchase", "like", "share")
COLUMNS = {
    "tenants": ("tenant_id", "name"),
    "users": ("user_id", "tenant_id", "created_at"),
    "items": ("item_id", "tenant_id", "content", "metadata", "created_at"),
    "user_interactions": ("user_id", "item_id", "interaction_type", "timestamp", "tenant_id", "created_at"),
    "model_training_runs": ("run_id", "tenant_id", "status", "completed_at"),
}


@dataclass
class Rows:
    """Rows of each watched table."""

    tenants: list[tuple[Any, ...]] = field(default_factory=list)
    users: list[tuple[Any, ...]] = field(default_factory=list)
    items: list[tuple[Any, ...]] = field(default_factory=list)
    user_interactions: list[tuple[Any, ...]] = field(default_factory=list)
    model_training_runs: list[tuple[Any, ...]] = field(default_factory=list)

    def __iadd__(self, other: "Rows") -> "Rows":
        for table in COLUMNS:
            getattr(self, table).extend(getattr(other, table))
        return self


async def load(tables: "asyncpg.Connection[Any]", rows: Rows) -> None:
    for table, columns in COLUMNS.items():
        if records := getattr(rows, table):
            await tables.copy_records_to_table(table, records=records, columns=columns)


def a_tenant(tenant: str, *, seed: int = 1, interactions: int = 200, items: int = 20, users: int = 15, now: datetime = NOW) -> Rows:
    """A healthy tenant."""
    dice = random.Random(f"{tenant} {seed}")
    rows = Rows(tenants=[(tenant, tenant.title())])
    rows.users = [(f"u{n}", tenant, now - timedelta(days=30)) for n in range(users)]
    rows.items = [(f"i{n}", tenant, f"thing {n}", '{"price": 1}', now - timedelta(days=n % 5, hours=1)) for n in range(items)]
    for n in range(interactions):
        at = now - timedelta(minutes=10 + 7 * n)  # no two alike
        rows.user_interactions.append((f"u{dice.randrange(users)}", f"i{dice.randrange(items)}", dice.choice(TYPES), at, tenant, at))
    rows.model_training_runs = [(uuid4(), tenant, "succeeded", now - timedelta(hours=3))]
    return rows


def spoil(rows: Rows, *, now: datetime = NOW, **defects: int) -> Rows:
    """The tenant with so many defects of each kind, all in rows of their own: nulls, orphans, strangers, twins, kinds, future."""
    tenant, at = rows.tenants[0][0], now - timedelta(minutes=3)
    good = ("u0", "i0", "view")
    table = rows.user_interactions
    made = iter(range(100_000))

    def add(user: Any, item: Any, kind: Any, time: Any) -> None:
        table.append((user, item, kind, time, tenant, at))

    for _ in range(defects.pop("null_users", 0)):
        add(None, "i0", "view", at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("null_items", 0)):
        add("u0", None, "view", at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("null_types", 0)):
        add("u0", "i0", None, at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("null_times", 0)):
        add("u1", f"i{next(made) % 20}", "view", None)
    for _ in range(defects.pop("orphans", 0)):
        add("u0", f"gone{next(made)}", "view", at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("strangers", 0)):
        add(f"nobody{next(made)}", "i0", "view", at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("kinds", 0)):
        add(*good[:2], "teleport", at - timedelta(milliseconds=next(made)))
    for _ in range(defects.pop("future", 0)):
        add(*good, now + timedelta(days=1, milliseconds=next(made)))
    for n in range(defects.pop("twins", 0)):
        table.append(table[n % 50])
    assert not defects, f"no such defects: {defects}"
    return rows


def wild_tenant(tenant: str, seed: int, now: datetime = NOW) -> Rows:
    """Rows drawn from small domains without any plan: what is wrong with them nobody chose."""
    dice = random.Random(seed)
    users, items = [None, *(f"u{n}" for n in range(6))], [None, *(f"i{n}" for n in range(6))]
    kinds = [None, *TYPES, "Teleport", "view ", "", "VIEW"]

    def when() -> datetime | None:
        return dice.choice(
            [None, now - timedelta(hours=dice.randrange(0, 60)), now + timedelta(hours=dice.randrange(1, 9)), datetime(1, 1, 2, tzinfo=UTC),
             datetime(9999, 12, 30, tzinfo=UTC)]
        )  # fmt: skip

    rows = Rows(tenants=[(tenant, None)] if dice.random() < 0.8 else [])
    rows.users = [(dice.choice(users), tenant, when()) for _ in range(dice.randrange(8))]
    rows.items = [(dice.choice(items), tenant, dice.choice([None, "x"]), dice.choice([None, '{"w": "NaN"}', '{"w": 1e308}']), when())
                  for _ in range(dice.randrange(8))]  # fmt: skip
    rows.user_interactions = [
        (dice.choice(users), dice.choice(items), dice.choice(kinds), when(), tenant, when()) for _ in range(dice.randrange(120))
    ]
    return rows


def count(rows: Rows, tenant: str, now: datetime = NOW, tolerance: timedelta = timedelta(minutes=5)) -> dict[str, float | None]:
    """The tenant's numbers, counted row by row in Python."""
    users = [row for row in rows.users if row[1] == tenant]
    items = [row for row in rows.items if row[1] == tenant]
    acts = [row for row in rows.user_interactions if row[4] == tenant]
    there_items, there_users = {row[0] for row in items}, {row[0] for row in users}
    late = now + tolerance
    day = [row for row in acts if row[3] and now - timedelta(days=1) < row[3] <= late]
    return {
        "users.rows": len(users),
        "users.null_user_id": _nulls(users, 0),
        "users.null_created_at": _nulls(users, 2),
        "items.rows": len(items),
        "items.null_item_id": _nulls(items, 0),
        "items.null_content": _nulls(items, 2),
        "items.null_created_at": _nulls(items, 4),
        "items.future": sum(1 for row in items if row[4] and row[4] > late),
        "items.age": _age((row[4] for row in items), now, late),
        "user_interactions.rows": len(acts),
        "user_interactions.null_user_id": _nulls(acts, 0),
        "user_interactions.null_item_id": _nulls(acts, 1),
        "user_interactions.null_interaction_type": _nulls(acts, 2),
        "user_interactions.null_timestamp": _nulls(acts, 3),
        "user_interactions.null_created_at": _nulls(acts, 5),
        "user_interactions.invalid": sum(1 for row in acts if row[2] is not None and row[2] not in TYPES),
        "user_interactions.future": sum(1 for row in acts if row[3] and row[3] > late),
        "user_interactions.age": _age((row[3] for row in acts), now, late),
        "user_interactions.rows_day": len(day),
        "user_interactions.rows_hour": sum(1 for row in day if row[3] > now - timedelta(hours=1)),
        "user_interactions.users_day": len({row[0] for row in day if row[0]}),
        "user_interactions.items_day": len({row[1] for row in day if row[1]}),
        "orphan_items.count": sum(1 for row in acts if row[1] is not None and row[1] not in there_items),
        "orphan_users.count": sum(1 for row in acts if row[0] is not None and row[0] not in there_users),
        "duplicates.count": sum(n - 1 for n in Counter(row[:4] for row in acts).values()),
    }


def _nulls(rows: Iterable[tuple[Any, ...]], column: int) -> int:
    return sum(1 for row in rows if row[column] is None)


def _age(times: Iterable[datetime | None], now: datetime, late: datetime) -> float | None:
    past = [time for time in times if time is not None and time <= late]
    return (now - max(past)).total_seconds() if past else None
