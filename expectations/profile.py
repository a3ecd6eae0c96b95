"""Measures a chunk of tenants: each pass over a table is one statement for all of them, within one snapshot of the warehouse.

What fails is narrowed down: a pass that takes too long is halved until the culprit is alone; a table that is locked, missing or
of another shape is not asked again. Nobody's trouble costs another tenant more than its time, and that is bounded: who took too long
is asked apart from the others, and briefly.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import groupby
from typing import Any

import asyncpg

from expectations.named import statement, statements
from expectations.shape import DECLARED, Difference, differences
from expectations.trouble import LATE, TIMEOUT, Trouble, is_away, trouble
from expectations.warehouse import Warehouse

SHORTEST = 0.05
"""Seconds; a statement that may not take so long is not begun."""
SETTLE = timedelta(minutes=5)
"""Rows younger than this are counted anew by the next tick: a transaction that is still open may add some of that age."""


@dataclass(frozen=True, slots=True)
class Due:
    """A tenant whose turn it is."""

    tenant_id: str
    types: tuple[str, ...]
    """Interaction types that are allowed."""
    since: datetime | None = None
    """Only rows created from then on are read; None: all."""
    before: dict[str, int] = field(default_factory=dict)
    """Table -> rows that were created before `since`."""
    alone: bool = False
    """Took too long last time: measured apart from the others."""
    seen: bool = False
    """The warehouse had something of it before, so no tables at all are no answer."""


@dataclass(slots=True)
class Profile:
    """The numbers of one tenant; what could not be measured is named in `troubles` by its table."""

    tenant_id: str
    known: bool | None = None
    numbers: dict[str, float | None] = field(default_factory=dict)
    """`table.number`; an age without a row is None."""
    details: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Difference] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """By number prefix or table."""
    settled: datetime | None = None
    whole: bool = True

    @property
    def undated(self) -> bool:
        """Whether rows lack the time that tells new ones from old ones: then only everything tells the new ones."""
        return any(self.numbers.get(f"{table}.null_created_at") for table in COUNTED_ON)

    @property
    def seen(self) -> bool:
        """Whether the warehouse knows the tenant, or has rows of it."""
        return bool(self.known or any(self.numbers.get(f"{table}.rows") for table in COUNTED_ON))

    @property
    def watched(self) -> bool:
        """As `seen`; in doubt, where a table cannot be read that would tell, it does."""
        return self.seen or bool(self.troubles.keys() - _BESIDE)

    def get(self, number: str) -> float | None:
        return self.numbers.get(number)


@dataclass(frozen=True, slots=True)
class Pass:
    """What is told by one statement of `profile.sql`: what it reads, what it counts (zero where it names no row), what it does not count."""

    name: str
    prefix: str
    tables: tuple[str, ...]
    counts: tuple[str, ...] = ()
    ages: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    beside: str | None = None
    """Another pass whose statement tells this too, in columns `{name}_{number}`, as long as all tables can be read."""
    new_only: str | None = None
    """Another statement that does the same for new rows alone."""
    incremental: bool = True
    """Whether it reads only new rows when asked to."""

    def column(self, number: str) -> str:
        return f"{self.name}_{number}" if self.beside else number

    def statement(self, incremental: bool) -> str:
        return self.new_only if incremental and self.new_only else self.beside or self.name


PASSES = (  # those of one table come first: whether it can be read is known before more depends on it
    Pass("users", "users", ("users",), ("rows", "null_user_id", "null_created_at", "tail")),
    Pass("items", "items", ("items",), ("rows", "null_item_id", "null_content", "null_created_at", "future", "tail")),
    Pass("users_undated", "users", ("users",), ("null_created_at",), incremental=False),
    Pass("items_undated", "items", ("items",), ("null_created_at",), incremental=False),
    Pass("user_interactions_undated", "user_interactions", ("user_interactions",), ("null_created_at",), incremental=False),
    Pass("items_newest", "items", ("items",), ages=("age",), incremental=False),
    Pass(
        "interactions_recent",
        "user_interactions",
        ("user_interactions",),
        ("future", "rows_hour", "rows_day", "users_day", "items_day"),
        incremental=False,
    ),
    Pass("interactions_newest", "user_interactions", ("user_interactions",), ages=("age",), incremental=False),
    Pass("training_newest", "model_training_runs", ("model_training_runs",), ages=("age",), incremental=False),
    Pass(
        "user_interactions",
        "user_interactions",
        ("user_interactions",),
        ("rows", "null_user_id", "null_item_id", "null_interaction_type", "null_timestamp", "invalid", "tail"),
        details=("types", "invalid_types"),
    ),
    Pass("orphan_items", "orphan_items", ("user_interactions", "items"), ("count",), beside="user_interactions"),
    Pass("orphan_users", "orphan_users", ("user_interactions", "users"), ("count",), beside="user_interactions"),
    Pass("duplicates", "duplicates", ("user_interactions",), ("count",), new_only="new_duplicates"),
)
TOGETHER = tuple(tuple(some) for _, some in groupby(PASSES, key=lambda each: each.beside or each.name))
"""The passes, those side by side that one statement tells."""
_TENANTS = Pass("tenants", "tenants", ("tenants",), incremental=False)
COUNTED_ON = ("users", "items", "user_interactions")
_BESIDE = {what.name for what in PASSES if what.tables == ("model_training_runs",)}
"""Passes over what we write ourselves, which say nothing about whom the warehouse knows."""
GONE = Trouble(
    "tables_gone",
    "",
    "none of the watched tables is to be seen any more; see that TIDEMILL_WAREHOUSE__DSN names the right database and the role may use its schema",
)


LONE = 3
"""Statement timeouts that the tenants measured alone may take together; one of them may take one."""


async def measure(
    warehouse: Warehouse, due: Sequence[Due], now: datetime, tolerance: timedelta, within: timedelta = timedelta(minutes=10)
) -> dict[str, Profile]:
    """The profile of each tenant, whatever happens; those that were slow last time come last, each alone. What is not read in time is a trouble."""
    clock, limit = asyncio.get_running_loop().time, warehouse.statement_timeout
    end = clock() + within.total_seconds()
    found: dict[str, Profile] = {}
    if together := [each for each in due if not each.alone]:
        found |= await _Chunk(warehouse, together, now, tolerance, end).measure()
        if undated := [replace(each, since=None, before={}) for each in together if each.since is not None and found[each.tenant_id].undated]:
            found |= await _Chunk(warehouse, undated, now, tolerance, end).measure()
    end = min(end, clock() + LONE * limit)
    lone = [each for each in due if each.alone]
    first = int(now.timestamp() / 60) % (len(lone) or 1)  # not always the same ones come too late
    for each in lone[first:] + lone[:first]:
        found |= await _Chunk(warehouse, [each], now, tolerance, min(end, clock() + limit), alone=True).measure()
    return found


class _Chunk:
    """Some tenants within one snapshot."""

    def __init__(self, warehouse: Warehouse, due: Sequence[Due], now: datetime, tolerance: timedelta, until: float, *, alone: bool = False) -> None:
        self._warehouse, self._due, self._now, self._tolerance = warehouse, due, now, tolerance
        self._until, self._alone = until, alone
        self._slow: set[str] = set()
        """Tenants that took too long by themselves: from then on the others do not wait with them."""
        self._settled = now - SETTLE
        self._profiles = {each.tenant_id: Profile(each.tenant_id, settled=self._settled, whole=each.since is None) for each in due}
        self._closed: dict[str, Trouble] = {}
        """Tables that nobody in this chunk can read."""

    async def measure(self) -> dict[str, Profile]:
        try:
            async with self._warehouse.snapshot() as connection:
                if await self._look(connection):
                    await self._warehouse.become_reader(connection)
                    for some in ((_TENANTS,), *TOGETHER):
                        await self._run(connection, some)
                else:
                    self._gone()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._away(error)
        for each in self._due:
            self._count_on(each, self._profiles[each.tenant_id])
        return self._profiles

    async def _look(self, connection: "asyncpg.Connection[Any]") -> bool:
        """The tables' shape; False where there are none of them, so that nobody is watched."""
        rows = await connection.fetch(statements("profile.sql")["shape"])
        shape = differences((row["table"], row["column"], row["type"]) for row in rows)
        for table, difference in shape.items():
            if not difference.there:
                self._closed[table] = Trouble("table_missing", table, f"{table} is not there; create it, or correct TIDEMILL_WAREHOUSE__DSN")
            elif difference.defects:
                named = "; ".join([*(f"{column} is missing" for column in difference.missing), *difference.wrong])
                code = "column_missing" if difference.missing else "column_type"
                self._closed[table] = Trouble(code, table, f"{table} is not as declared: {named}; mend the table, then `tidemill quality run`")
        for profile in self._profiles.values():
            profile.shape = shape
        if any(row["table"] in COUNTED_ON and (row["column"], row["type"]) == ("created_at", "date") for row in rows):
            self._read_whole()
        return any(difference.there for difference in shape.values())

    def _read_whole(self) -> None:
        """A day tells nobody which rows of it came since the last tick."""
        self._due = [replace(each, since=None, before={}) for each in self._due]
        for profile in self._profiles.values():
            profile.whole = True

    async def _run(self, connection: "asyncpg.Connection[Any]", some: Sequence[Pass]) -> None:
        """The passes that one statement tells, over all rows of some tenants and over the new rows of the others."""
        whole = [each for each in self._due if each.since is None or not some[0].incremental]
        new = [each for each in self._due if each.since is not None and some[0].incremental]
        for due, incremental in ((whole, False), (new, True)):
            slow = [each for each in due if each.tenant_id in self._slow]
            if quick := [each for each in due if each.tenant_id not in self._slow]:
                await self._ask(connection, some, quick, self._warehouse.statement_timeout, incremental=incremental)
            for each in slow:
                await self._ask(connection, some, [each], self._warehouse.least_timeout, incremental=incremental)

    async def _ask(
        self, connection: "asyncpg.Connection[Any]", some: Sequence[Pass], due: Sequence[Due], timeout: float, *, incremental: bool = False
    ) -> None:
        """One statement for all, or for ever smaller halves of them; at last each of its passes by itself."""
        if not (some := self._open(some, due)):
            return
        if (timeout := min(timeout, self._left())) < SHORTEST:
            for what in some:
                self._failed(due, what, self._late(what))
            return
        try:
            async with connection.transaction():  # a savepoint: what fails takes neither the snapshot nor the other passes along
                await connection.execute("select set_config('statement_timeout', $1, true)", f"{int(timeout * 1000)}ms")
                asked = parameters(due, self._settled, self._now, self._tolerance)
                rows = await connection.fetch(text(some, incremental=incremental), *asked, timeout=timeout + 10)
        except asyncpg.PostgresError as error:
            if is_away(error):
                raise
            why = trouble(error, " or ".join(dict.fromkeys(table for what in some for table in what.tables)))
            less = max(timeout / 2, self._warehouse.least_timeout)
            if why.of_one and len(due) == 1:
                self._slow.add(due[0].tenant_id)
            if why.of_one and len(due) > 1:
                half = len(due) // 2
                await self._ask(connection, some, due[:half], less, incremental=incremental)
                await self._ask(connection, some, due[half:], less, incremental=incremental)
            elif len(some) > 1:
                for what in some:
                    await self._ask(connection, [what], due, less, incremental=incremental)
            else:
                [what] = some
                if not why.of_one and len(what.tables) == 1:
                    self._closed[what.tables[0]] = why
                self._failed(due, what, why)
        else:
            for what in some:
                self._take(what, due, rows)

    def _left(self) -> float:
        """Seconds that the next statement may take: of a tenant by itself half of what is left, so that one pass does not use up all of it."""
        left = self._until - asyncio.get_running_loop().time()
        return left / 2 if self._alone else left

    def _late(self, what: Pass) -> Trouble:
        tables = " or ".join(what.tables)
        code = TIMEOUT if self._alone else LATE  # who is alone stays so: it was too slow last time
        return Trouble(code, tables, f"{tables} was not read: slow tables of this or other tenants took the time there is; look for a missing index")

    def _open(self, some: Sequence[Pass], due: Sequence[Due]) -> list[Pass]:
        """Those of the passes whose tables can be read, as far as is known; the others failed."""
        found = []
        for what in some:
            if closed := next((self._closed[table] for table in what.tables if table in self._closed), None):
                self._failed(due, what, closed)
            else:
                found.append(what)
        return found

    def _take(self, what: Pass, due: Sequence[Due], rows: Sequence[Any]) -> None:
        for each in due:
            numbers = self._profiles[each.tenant_id].numbers
            numbers |= dict.fromkeys((f"{what.prefix}.{count}" for count in what.counts), 0)
            numbers |= dict.fromkeys((f"{what.prefix}.{age}" for age in what.ages), None)
        for row in rows:
            profile = self._profiles[row["tenant_id"].rstrip(" ")]  # a char(n) comes padded, and no tenant's id ends in a blank
            if what.name == "tenants":
                profile.known = row["known"]
            profile.numbers |= {f"{what.prefix}.{name}": row[what.column(name)] for name in (*what.counts, *what.ages)}
            profile.details |= {f"{what.prefix}.{name}": json.loads(row[what.column(name)]) for name in what.details}

    def _failed(self, due: Sequence[Due], what: Pass, why: Trouble) -> None:
        for each in due:
            self._profiles[each.tenant_id].troubles.setdefault(what.name, why)

    def _gone(self) -> None:
        """No table is there: whoever was seen before is in doubt, not unwatched. A wrong DSN or a revoked schema looks like this."""
        for each in self._due:
            if each.seen:
                profile = self._profiles[each.tenant_id]
                profile.shape, profile.troubles = {}, {what.name: GONE for what in (_TENANTS, *PASSES)}

    def _away(self, error: BaseException) -> None:
        """The warehouse went away in the middle: what was measured counts, the rest could not be."""
        for each in (_TENANTS, *PASSES):
            for profile in self._profiles.values():
                wanted = [f"{each.prefix}.{number}" for number in (*each.counts, *each.ages)]
                if (each.name == "tenants" and profile.known is None) or any(number not in profile.numbers for number in wanted):
                    profile.troubles.setdefault(each.name, trouble(error, " or ".join(each.tables)))

    def _count_on(self, due: Due, profile: Profile) -> None:
        """Rows counted before are added; a table that was not read keeps what was known of it."""
        for table in COUNTED_ON:
            rows = profile.numbers.get(f"{table}.rows")
            if rows is not None:
                profile.numbers[f"{table}.rows"] = rows + due.before.get(table, 0)


def parameters(due: Sequence[Due], settled: datetime, now: datetime, tolerance: timedelta) -> list[Any]:
    """What every pass is asked with: `due` in `profile.sql`."""
    since = [each.since for each in due]
    return [
        [each.tenant_id for each in due],
        since,
        [_document(each.types) for each in due],
        min(filter(None, since), default=None),
        settled,
        now,
        tolerance,
    ]


@cache
def _document(types: tuple[str, ...]) -> str:
    """As jsonb; mostly everybody's are the same."""
    return json.dumps(types)


def text(some: Sequence[Pass], *, incremental: bool) -> str:
    """The statement that tells these passes, and looks nothing up for others that it could tell."""
    name = some[0].statement(incremental)
    others = {table for what in PASSES if what.statement(incremental) == name and what not in some for table in what.tables}
    return statement(name, incremental=incremental, without=frozenset(others.difference(*(what.tables for what in some))))


def to_count_on(profile: Profile) -> dict[str, Any]:
    """What the next tick of a clean tenant may count on: where it begins, and how many rows lie before."""
    assert profile.settled is not None
    rows = {table: int((profile.get(f"{table}.rows") or 0) - (profile.get(f"{table}.tail") or 0)) for table in COUNTED_ON}
    return {"since": profile.settled.isoformat(), "before": rows}


def is_clean(profile: Profile) -> bool:
    """Whether the next tick may look at new rows alone: nothing to find gone among the old ones, and nothing left unmeasured."""
    defects = ("null_", "future", "invalid", "orphan", "duplicates")
    counted = (value for name, value in profile.numbers.items() if any(word in name for word in defects))
    return not profile.troubles and not any(counted) and set(profile.shape) == set(DECLARED)
