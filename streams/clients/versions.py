"""The tenant's numbered model versions, as the deploy stage speaks of them; the ledger keeps them (`streams/ledger/versions.py`)."""

from typing import NamedTuple, Protocol
from uuid import UUID


class Version(NamedTuple):
    """One numbered model of a tenant: immutable once made."""

    tenant_id: str
    number: int
    run_id: UUID | None
    model_path: str
    index_path: str
    state: str
    """`reserved` before its health was seen, `live`, `retired` (was live), `rejected` (never became healthy)."""


class Versions(Protocol):
    """The tenant's counter and its live pointer."""

    async def reserve(self, tenant_id: str, run_id: UUID, round: int, *, model_path: str, index_path: str) -> Version:
        """The number for this run and round: the same one however often it is asked."""
        ...

    async def live(self, tenant_id: str) -> Version | None:
        """What the inference service should be answering with, or None before the first deploy."""
        ...

    async def mark_live(self, tenant_id: str, number: int) -> None:
        """Record that `number` is healthy and serves; the one before becomes `retired`. Doing twice is like doing once."""
        ...

    async def reject(self, tenant_id: str, number: int, reason: str) -> None:
        """Record that `number` never became healthy."""
        ...

    async def restore(self, tenant_id: str, *, instead_of: int) -> Version | None:
        """A new number for the artefacts of the live version, to be deployed in place of `instead_of`; None if nothing is live.

        The same number however often it is asked for the same `instead_of`, also when it has become live itself (DECISIONS 9).
        """
        ...
