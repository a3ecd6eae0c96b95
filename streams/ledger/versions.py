"""The tenant's numbered model versions, kept in the ledger (`streams.clients.versions.Versions` says what they are for)."""

from typing import Any
from uuid import UUID

from streams.clients.versions import Version
from streams.ledger.connection import Connection
from streams.ledger.needed import needed

_COLUMNS = "tenant_id, number, run_id, model_path, index_path, state"


class LedgerVersions:
    """Versions over one connection; every call may be made twice."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def _rows(self, sql: str, *args: Any) -> list[Any]:
        with needed():
            return await self._connection.fetch(sql, *args)

    async def reserve(self, tenant_id: str, run_id: UUID, round: int, *, model_path: str, index_path: str) -> Version:
        rows = await self._rows(f"select {_COLUMNS} from reserve_version($1, $2, $3, $4, $5)", tenant_id, run_id, round, model_path, index_path)
        return _version(rows[0])

    async def live(self, tenant_id: str) -> Version | None:
        rows = await self._rows(f"select {_COLUMNS} from versions where tenant_id = $1 and state = 'live'", tenant_id)
        return _version(rows[0]) if rows else None

    async def mark_live(self, tenant_id: str, number: int) -> None:
        await self._rows("select mark_version_live($1, $2)", tenant_id, number)

    async def reject(self, tenant_id: str, number: int, reason: str) -> None:
        await self._rows(
            "update versions set state = 'rejected', reason = $3 where tenant_id = $1 and number = $2 and state in ('reserved', 'rejected')",
            tenant_id,
            number,
            reason,
        )

    async def restore(self, tenant_id: str, *, instead_of: int) -> Version | None:
        rows = await self._rows(f"select {_COLUMNS} from restore_version($1, $2)", tenant_id, instead_of)
        return _version(rows[0]) if rows else None


def _version(row: Any) -> Version:
    return Version(*row)
