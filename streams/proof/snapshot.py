"""Streams tenant after tenant out of one snapshot of the ledger: the folded journal, and the rows beside it. Memory holds one tenant."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from streams.fold import follow
from streams.folded import Comparable, Entry, FoldError, State, state_hash

_TENANTS = """
select tenant_id, max(seq) as seq from (
    select tenant_id, seq from tenant_heads
    union all select distinct tenant_id, 0 from journal
    union all select distinct tenant_id, 0 from runs
    union all select distinct tenant_id, 0 from steps
    union all select distinct tenant_id, 0 from pipeline_heads where active_run is not null or pending_run is not null
) t where $1::text is null or tenant_id = $1 group by tenant_id order by tenant_id
"""
_JOURNAL = "select * from journal where $1::text is null or tenant_id = $1 order by tenant_id, seq"
_RUNS = "select * from runs where $1::text is null or tenant_id = $1 order by tenant_id"
_STEPS = "select * from steps where $1::text is null or tenant_id = $1 order by tenant_id"
_HEADS = "select * from pipeline_heads where $1::text is null or tenant_id = $1 order by tenant_id"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant at the moment of the snapshot."""

    tenant_id: str
    folded: State
    """What its journal comes to, up to the first entry that cannot be."""
    error: FoldError | None
    rows: Comparable

    @property
    def folded_hash(self) -> str:
        return state_hash(self.folded)


class _Lane:
    """A cursor ordered by tenant, read one tenant at a time."""

    def __init__(self, cursor: Any) -> None:
        self._rows = aiter(cursor)
        self._next: Any = None

    async def of(self, tenant_id: str) -> AsyncIterator[Any]:
        while True:
            row = self._next or await anext(self._rows, None)
            self._next = row
            if row is None or row["tenant_id"] != tenant_id:
                return
            self._next = None
            yield row

    async def all_of(self, tenant_id: str) -> list[Any]:
        return [row async for row in self.of(tenant_id)]


async def tenants(raw: "asyncpg.Connection[Any]", tenant_id: str | None = None) -> AsyncGenerator[Tenant, None]:
    """Every tenant, or the one. All are seen at the same moment: writers go on and are not waited for."""
    async with raw.transaction(isolation="repeatable_read", readonly=True):
        journal, runs, steps, heads = (_Lane(raw.cursor(sql, tenant_id, prefetch=500)) for sql in (_JOURNAL, _RUNS, _STEPS, _HEADS))
        async for row in raw.cursor(_TENANTS, tenant_id, prefetch=500):
            name = row["tenant_id"]
            folded, error = await folded_of(journal.of(name))
            found = [await lane.all_of(name) for lane in (runs, steps, heads)]
            yield Tenant(name, folded, error, Comparable.of_rows(row["seq"], *found))


async def folded_of(rows: AsyncIterator[Any]) -> tuple[State, FoldError | None]:
    """What one tenant's journal comes to; the rest of a journal that cannot be is read past."""
    state, error = State(), None
    async for row in rows:
        if error is None:
            try:
                follow(state, Entry.load(row))
            except FoldError as refusal:
                error = refusal
    return state, error
