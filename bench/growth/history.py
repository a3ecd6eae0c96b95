"""Fills a ledger with finished runs: copies of one that the runtime did, in the shape and in the tables that it writes."""

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.ours import add_tenants, name
from bench.world import World
from streams.ledger.connection import connect

TENANTS = 1000
"""Whose runs they are: the same that ask for runs when it is measured."""
LANES = (("journal",), ("steps",), ("runs", "causes", "inbox", "effects"))
"""Tables that are filled at the same time."""
_PARTS = re.split(r"^-- (\w+)\(.*$", Path(__file__).with_name("history.sql").read_text(), flags=re.MULTILINE)
SQL = dict(zip(_PARTS[1::2], _PARTS[2::2], strict=True))
_RUN = "select run_id from runs where state = 'succeeded' order by finished_at desc limit 1"
_ENTRIES = "select count(*) from journal where run_id = $1"
_COUNTS = """
select (select count(*) from runs where finished_at is not null) as finished_runs, (select count(*) from journal) as journal_rows,
    (select count(*) from steps) as steps, pg_database_size(current_database()) / 1048576 as mib
"""


async def fill(world: World, runs: int) -> None:
    """So many more finished runs; one must be there to copy."""
    ledger = await connect(world.addresses.postgres, timeout=600, name="bench")
    try:
        await add_tenants(ledger, [name(number) for number in range(TENANTS)])
        run = await ledger.fetchval(_RUN)
        entries = await ledger.fetchval(_ENTRIES, run)
        await ledger.execute(SQL["table"])
        await ledger.execute(SQL["plan"], runs, entries)
        await ledger.execute("analyze bench_copies")
        await asyncio.gather(*(_lane(world, tables, run, entries) for tables in LANES))
        await ledger.execute(SQL["heads"])
        await ledger.execute(SQL["gone"])
        await ledger.execute("vacuum analyze")
    finally:
        await ledger.close()


async def _lane(world: World, tables: tuple[str, ...], run: UUID, entries: int) -> None:
    ledger = await connect(world.addresses.postgres, timeout=600, name="bench")
    try:
        for table in tables:
            await ledger.execute(SQL[table], *((run, entries) if table == "runs" else (run,)))
    finally:
        await ledger.close()


async def counts(world: World) -> dict[str, Any]:
    """How full the ledger is."""
    ledger = await connect(world.addresses.postgres, timeout=600, name="bench")
    try:
        return dict(await ledger.fetchrow(_COUNTS) or {})
    finally:
        await ledger.close()
