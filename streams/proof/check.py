"""`tidemill rebuild --check`: every tenant's journal is folded again and held against its rows."""

from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import asyncpg

from streams.proof.compare import Difference, differences, refused
from streams.proof.snapshot import Tenant, tenants

MOST = 1000
"""Differences that are kept; further ones are counted."""


@dataclass
class Checked:
    """What the comparison came to. The hashes are over all tenants' hashes, in their order."""

    tenants: int = 0
    runs: int = 0
    entries: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    journal_hash: str = ""
    rows_hash: str = ""

    @property
    def equal(self) -> bool:
        return self.differing == 0

    def take(self, tenant: Tenant) -> None:
        self.tenants += 1
        self.runs += len(tenant.rows.runs)
        self.entries += tenant.folded.seq
        for found in compared(tenant):
            self.differing += 1
            if len(self.differences) < MOST:
                self.differences.append(found)


async def check(raw: "asyncpg.Connection[Any]", tenant_id: str | None = None) -> Checked:
    """Fold and compare, in one snapshot."""
    checked, journal, rows = Checked(), sha256(), sha256()
    async with aclosing(tenants(raw, tenant_id)) as every:
        async for tenant in every:
            checked.take(tenant)
            journal.update(tenant.folded_hash.encode())
            rows.update(tenant.rows.hash().encode())
    checked.journal_hash, checked.rows_hash = journal.hexdigest(), rows.hexdigest()
    return checked


def compared(tenant: Tenant) -> list[Difference]:
    """The tenant's differences; of a journal that cannot be folded, that it cannot."""
    if tenant.error is not None:
        return [refused(tenant.error)]
    return list(differences(tenant.tenant_id, tenant.folded, tenant.rows))
