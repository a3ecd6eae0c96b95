"""Which version of a tenant is live: rows that survive a restart, moved by compare-and-set."""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reference.database import Database
from reference.errors import Refused

SCHEMA = """
create table if not exists deployments(
    tenant_id text not null,
    version integer not null,
    model_path text not null,
    index_path text not null,
    config text not null,
    previous_version integer,
    deployed_at text not null,
    live integer not null,
    primary key (tenant_id, version)
);
create unique index if not exists deployments_live on deployments(tenant_id) where live;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One immutable version of one tenant."""

    tenant_id: str
    version: int
    model_path: str
    index_path: str
    config: dict[str, Any]
    previous_version: int | None = None
    deployed_at: str = ""
    live: bool = False

    def same(self, other: "Deployment") -> bool:
        """Whether both serve the same files under the same number."""
        return (self.version, self.model_path, self.index_path) == (other.version, other.model_path, other.index_path)


class Versions:
    """The deployments of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database.create(SCHEMA)

    async def history(self, tenant_id: str) -> list[Deployment]:
        """All versions of a tenant, newest deployment first."""
        return await self._select("tenant_id = ? order by deployed_at desc", tenant_id)

    async def live(self, tenant_id: str) -> Deployment | None:
        found = await self._select("live and tenant_id = ?", tenant_id)
        return found[0] if found else None

    async def all_live(self) -> list[Deployment]:
        return await self._select("live")

    async def admit(self, wanted: Deployment, expected: int | None) -> Deployment | None:
        """The live row if `wanted` is live already; refused unless `expected` is live and the number is free."""
        return await self._database.run(lambda c: _admit(c, wanted, expected))

    async def switch(self, wanted: Deployment, expected: int | None) -> Deployment:
        """Make `wanted` live instead of `expected`, or refuse: one transaction."""
        return await self._database.run(lambda c: _switch(c, wanted, expected))

    async def _select(self, condition: str, *values: object) -> list[Deployment]:
        return await self._database.run(lambda c: _rows(c, condition, *values))


def _admit(connection: sqlite3.Connection, wanted: Deployment, expected: int | None) -> Deployment | None:
    current = next(iter(_rows(connection, "live and tenant_id = ?", wanted.tenant_id)), None)
    if current is not None and current.same(wanted):
        return current
    number = current.version if current else None
    if (expected or None) != number:
        said = f"{wanted.tenant_id} is at version {number or 'none'}, not at {expected or 'none'}; look at what is live and deploy again"
        raise Refused(409, "version_conflict", said, live=number)
    for taken in _rows(connection, "tenant_id = ? and version = ?", wanted.tenant_id, wanted.version):
        if not taken.same(wanted):
            raise Refused(409, "version_taken", f"version {wanted.version} of {wanted.tenant_id} has other files; versions never change", live=number)
    return None


def _switch(connection: sqlite3.Connection, wanted: Deployment, expected: int | None) -> Deployment:
    current = _admit(connection, wanted, expected)
    if current is not None:
        return current
    connection.execute("update deployments set live = 0 where tenant_id = ? and live", (wanted.tenant_id,))
    connection.execute(
        """insert or replace into deployments(tenant_id, version, model_path, index_path, config, previous_version, deployed_at, live)
            values (?,?,?,?,?,?,?,1)""",
        (
            wanted.tenant_id,
            wanted.version,
            wanted.model_path,
            wanted.index_path,
            json.dumps(wanted.config),
            expected or None,
            datetime.now(UTC).isoformat(),
        ),
    )
    return _rows(connection, "live and tenant_id = ?", wanted.tenant_id)[0]


def _rows(connection: sqlite3.Connection, condition: str, *values: object) -> list[Deployment]:
    names = ("tenant_id", "version", "model_path", "index_path", "previous_version", "deployed_at")
    found = connection.execute(f"select * from deployments where {condition}", values)
    return [Deployment(**{name: row[name] for name in names}, config=json.loads(row["config"]), live=bool(row["live"])) for row in found]
