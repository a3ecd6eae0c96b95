"""`tidemill verify`: three records of where each tenant is, held against each other: Faust table, ledger rows, folded journal.

Fold and rows are read in one snapshot. The table comes later by its nature: one that is behind by versions is asked again for a
while, and only one that stays behind is a mismatch.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx

from streams.proof.check import compared
from streams.proof.compare import Difference, fields
from streams.proof.snapshot import tenants
from streams.settings import Settings

PATIENCE = 5.0
"""Seconds that a table may lag behind the ledger."""
PAUSE = 0.25
AT_ONCE = 8
"""Tenants whose table entries are asked for at a time."""
_LATEST = """
select distinct on (pipeline) pipeline, run_state(r) as state from runs r where tenant_id = $1 order by pipeline, version desc
"""


class ViewAway(Exception):
    """The process that holds the table cannot be asked: why, and what to do."""


@dataclass
class Verified:
    """What the comparison came to."""

    tenants: int = 0
    pipelines: int = 0
    lagging: int = 0
    """Entries that were behind at first and caught up."""
    differences: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differences


class View:
    """The view process's API, as far as it shows the table."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http, self._url = http, url

    async def states(self, tenant_id: str) -> dict[str, Any] | None:
        """Pipeline -> the table's value; None while the process has not the table whole."""
        try:
            response = await self._http.get(f"{self._url}/api/v1/tenants/{tenant_id}/state")
            response.raise_for_status()
            answer = response.json()
            return dict(answer["pipelines"]) if answer["source"] == "table" else None
        except httpx.HTTPStatusError as error:
            raise ViewAway(f"the view at {self._url} answers {error.response.status_code}; look at its log") from error
        except (httpx.HTTPError, OSError) as error:
            raise ViewAway(f"the view at {self._url} does not answer ({type(error).__name__}); is `tidemill worker --role view` running?") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ViewAway(f"the view at {self._url} gave an answer that cannot be read; is it of this version?") from error


async def verify(snapshot: "asyncpg.Connection[Any]", now: "asyncpg.Connection[Any]", view: View, *, patience: float = PATIENCE) -> Verified:
    """Compare every tenant. `now` sees what was committed since the snapshot: the table is younger than that."""
    verified, names = Verified(), list[str]()
    async with aclosing(tenants(snapshot)) as every:
        async for tenant in every:
            verified.tenants += 1
            verified.differences += compared(tenant)
            names.append(tenant.tenant_id)
            if len(names) == AT_ONCE:
                await _tables(now, view, names, patience, verified)
                names = []
    await _tables(now, view, names, patience, verified)
    return verified


async def _tables(now: "asyncpg.Connection[Any]", view: View, names: list[str], patience: float, verified: Verified) -> None:
    lock = asyncio.Lock()  # one connection, one question at a time
    await asyncio.gather(*(_table(now, lock, view, name, patience, verified) for name in names))


async def _table(now: "asyncpg.Connection[Any]", lock: asyncio.Lock, view: View, tenant_id: str, patience: float, verified: Verified) -> None:
    loop = asyncio.get_running_loop()
    until, lagged = loop.time() + patience, False
    while True:
        held = await view.states(tenant_id)
        async with lock:
            rows = {row["pipeline"]: row["state"] for row in await now.fetch(_LATEST, tenant_id)}
        found = list(table_differences(tenant_id, rows, held))
        # ahead: a commit between the two questions; behind: the topic is still being read
        if all(each.code == "table_differs" for each in found) or loop.time() > until:
            break
        lagged = True
        await asyncio.sleep(PAUSE)
    verified.pipelines += len(rows)
    verified.lagging += lagged and not found
    verified.differences += found


def table_differences(tenant_id: str, rows: Mapping[str, Any], held: Mapping[str, Any] | None) -> list[Difference]:
    """Where the table's entry is not the latest state that the ledger put out for the pipeline."""
    if held is None:
        return [Difference(tenant_id, "table_away", "table", "the view has not its table whole: it recovers, or another process holds it")]
    found = []
    for name in sorted(rows.keys() | held.keys()):
        about, row, entry = f"pipeline {name}", rows.get(name), held.get(name)
        if entry is None or (row is not None and entry["version"] < row["version"]):
            version = entry["version"] if entry else "nothing"
            found.append(Difference(tenant_id, "table_behind", about, f"the table has version {version}, the ledger {row and row['version']}"))
        elif row is None or entry["version"] > row["version"]:
            version = row["version"] if row else "nothing"
            sentence = f"the table has version {entry['version']}, the ledger {version}: the ledger was set back"
            found.append(Difference(tenant_id, "table_ahead", about, sentence))
        else:
            found += fields(tenant_id, "table", about, _timed(row), _timed(entry), ("ledger", "table"))
    return found


def _timed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Times as times: sessions of other time zones write the same moment otherwise."""
    return {name: datetime.fromisoformat(value).astimezone(UTC) if name.endswith("_at") and value else value for name, value in state.items()}


@asynccontextmanager
async def open_view(settings: Settings) -> AsyncIterator[View]:
    async with httpx.AsyncClient(timeout=10, trust_env=False, follow_redirects=False) as http:
        yield View(http, f"http://{settings.web.host}:{settings.web.port}")
