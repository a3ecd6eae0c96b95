"""Data arrives, and the tenant that wants it trains: once for the same files, within its budget, with the reason kept."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from streams.arrivals import Arrivals, Listing
from streams.ledger.connection import Connection
from streams.stage import TryAgain
from streams.tenants import add_tenant, change_tenant
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

SEEN = "f"
"""The fingerprint that the toy's validate gives."""


class Folders:
    """What lies there, by tenant, and the look at it."""

    def __init__(self, travel: Travel, connection: Connection) -> None:
        self.travel = travel
        self.files: dict[str, Listing] = {}
        self.arrivals = Arrivals(connection, travel.ledger, travel.runtime.pipelines, None, self.lying)
        self.down = False

    async def lying(self, tenant: str, services: Any) -> Listing:
        if self.down:
            raise TryAgain("S3 is away", code="s3_unreachable")
        return self.files[tenant]

    async def tenant(self, name: str, **settings: Any) -> None:
        await add_tenant(self.travel.ledger, name, name=None, by="test")
        changes = {f"arrivals.{key}": value for key, value in settings.items()}
        answer = await change_tenant(self.travel.ledger, name, name=None, owner=None, labels={}, settings=changes, by="test")
        assert answer["result"] != "refused", answer

    async def look(self, **after: float) -> dict[str, str]:
        self.travel.clock.ahead += timedelta(**after)
        return {tenant: decision.code for tenant, decision in (await self.arrivals.look()).items()}

    async def decisions(self, tenant: str = "acme") -> list[str]:
        return [row["code"] for row in await self.travel.rows("select code from arrival_decisions where tenant_id = $1 order by at", tenant)]


@pytest.fixture
async def folders(ledger_dsn: str) -> AsyncIterator[Folders]:
    connection = Connection(ledger_dsn)
    async with travelling(Travel(ledger_dsn, (TOY,), Neighbours())) as travel:
        yield Folders(travel, connection)
    await connection.close()


async def test_data_that_arrived_and_lies_still_trains_once(folders: Folders) -> None:
    await folders.tenant("acme", train=True)
    await folders.tenant("globex")
    folders.files = {"acme": Listing(SEEN, {"a": 1 << 21})}
    assert await folders.look() == {"acme": "still_arriving"}
    assert await folders.look(minutes=5) == {"acme": "asked"}
    [run] = await folders.travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    assert "data arrived: 2,097,152 new bytes; the folder holds 1 file" in run["request"]
    assert await folders.look(minutes=5) == {"acme": "nothing_new"}
    assert await folders.look(minutes=5) == {"acme": "nothing_new"}
    assert await folders.decisions() == ["still_arriving", "asked", "nothing_new"]


async def test_a_run_that_is_open_and_the_budget_are_waited_for(folders: Folders) -> None:
    await folders.tenant("acme", train=True, apart="2h", per_day=2)
    folders.files = {"acme": Listing("one", {"a": 1 << 21})}
    await folders.look()
    assert await folders.look(minutes=5) == {"acme": "asked"}
    await folders.travel.until(lambda runs: runs and runs[0]["stage"] == "train")
    folders.files = {"acme": Listing("two", {"a": 1 << 21, "b": 1 << 21})}
    assert await folders.look(minutes=5) == {"acme": "still_arriving"}
    assert await folders.look(minutes=5) == {"acme": "run_open"}
    folders.travel.services.finding = {"status": "completed", "model_path": "models/x"}
    await folders.travel.wait_out(1)
    assert await folders.look(minutes=5) == {"acme": "too_soon"}
    assert await folders.look(hours=2) == {"acme": "asked"}
    await folders.travel.wait_out(2)
    folders.files = {"acme": Listing("three", {"c": 1 << 21})}
    await folders.look(hours=3)
    assert await folders.look(minutes=5) == {"acme": "day_full"}
    assert await folders.look(hours=20) == {"acme": "asked"}


async def test_a_store_that_is_away_changes_nothing(folders: Folders) -> None:
    await folders.tenant("acme", train=True)
    folders.down = True
    assert await folders.look() == {}
    assert await folders.travel.rows("select 1 from arrivals") == []


async def test_the_files_of_all_tenants_are_never_read_at_once(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that looks at thousands of tenants with twenty thousand files each would not live through it."""
    for tenant in ("acme", "globex", "initech"):
        await folders.tenant(tenant, train=True)
        folders.files[tenant] = Listing("two", {"a": 1 << 20, "b": 1 << 19})
    await folders.look()
    await folders.travel.rows("""update arrivals set known = '["a"]'""")
    fetch, answers = Connection.fetch, list[str]()

    async def watched(connection: Connection, sql: str, *args: Any) -> list[Any]:
        rows = await fetch(connection, sql, *args)
        answers.append(repr(rows))
        return rows

    monkeypatch.setattr(Connection, "fetch", watched)
    assert await folders.look(minutes=5) == dict.fromkeys(folders.files, "too_little")
    assert max(answer.count("['a']") for answer in answers) == 1
