"""Index folders that nothing names are deleted once they are old enough; whatever an event or a version names stays."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from streams.ledger.connection import Connection
from streams.stage import TryAgain
from streams.sweeper import Pass, Sweeper
from tests.fakes import FakeObjects
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

BUCKET = "embeddings-indices"
FILES = ("index.faiss", "items.ids", "manifest.json")


class Attic:
    """A tenant's finished run, what lies in the bucket, and a sweeper for it."""

    def __init__(self, travel: Travel, connection: Connection, run: Any) -> None:
        self.travel, self.run, self.objects = travel, run, FakeObjects()
        self.sweeper = Sweeper(connection, self.objects, travel.clock, travel.settings)

    def folder(self, attempt: str, files: tuple[str, ...] = FILES, run: Any = None, tenant: str = "acme") -> str:
        """An index, or what a crash left of one."""
        path = f"indices/{tenant}/{run or self.run['run_id']}/{attempt}"
        for name in files:
            self.objects.files[BUCKET, f"{path}/{name}"] = b"1234"
        return path

    async def version(self, path: str, state: str) -> None:
        connection = await asyncpg.connect(self.travel.dsn)
        number = await connection.fetchval("select coalesce(max(number), 0) + 1 from versions")
        query = "insert into versions (tenant_id, number, round, model_path, index_path, state) values ('acme', $1, $1, 'models/acme/m', $2, $3)"
        await connection.execute(query, number, path, state)
        await connection.close()

    @property
    def left(self) -> set[str]:
        return {key.rpartition("/")[0] for _, key in self.objects.files}

    async def sweep(self, **after: float) -> Pass:
        self.travel.clock.ahead += timedelta(**after)
        return await self.sweeper.sweep()


@pytest.fixture
async def attic(ledger_dsn: str) -> AsyncIterator[Attic]:
    connection = Connection(ledger_dsn)
    async with travelling(
        Travel(ledger_dsn, (TOY,), Neighbours(finding={"status": "completed", "model_path": "models/acme/m"})), folds=False
    ) as travel:
        travel.request()
        await travel.until(lambda runs: runs and runs[0]["stage"] == "train")
        [run] = await travel.wait_out()
        assert run["state"] == "succeeded", run
        yield Attic(travel, connection, run)
    await connection.close()


async def test_what_nothing_names_goes_when_it_is_old_enough_and_not_before(attic: Attic) -> None:
    taken_over, cut_off = attic.folder("1-3"), attic.folder("1-4", FILES[:1])
    assert await attic.sweep() == Pass(waiting=2)
    assert attic.left == {taken_over, cut_off}
    assert await attic.sweep(days=2) == Pass(folders=2, bytes=16)
    assert attic.left == set()
    assert await attic.sweep() == Pass()
    [swept] = await attic.travel.rows("select folders, bytes, waiting from sweeps")
    assert swept == {"folders": 2, "bytes": 16, "waiting": 0}


@pytest.mark.parametrize("state", ["live", "retired", "reserved", "rejected"])
async def test_no_version_loses_its_index_and_a_neighbouring_name_saves_none(attic: Attic, state: str) -> None:
    kept, orphan = attic.folder("1-2"), attic.folder("1-20")
    await attic.version(kept, state)
    assert (await attic.sweep(days=2)).folders == 1
    assert attic.left == {kept}, orphan


@pytest.mark.parametrize("table", ["journal", "steps"])
@pytest.mark.parametrize("below", ["", "/", "/job-7", "/job-7/"])
async def test_an_index_that_an_event_names_stays_whatever_became_of_it(attic: Attic, table: str, below: str) -> None:
    kept = attic.folder("1-2")
    column, stage = ("data", "data ->> 'stage'") if table == "journal" else ("output", "stage")
    place = "{output,index_path}" if table == "journal" else "{index_path}"
    forge = f"update {table} set {column} = jsonb_set({column}, $1, to_jsonb($2::text)) where {stage} = 'index' and run_id = $3 returning 1"
    assert await attic.travel.rows(forge, place.strip("{}").split(","), kept + below, attic.run["run_id"])
    attic.folder("1-3")
    assert (await attic.sweep(days=400)).folders == 1
    assert attic.left == {kept}


async def test_folders_of_open_unknown_and_foreign_runs_are_left_alone(attic: Attic) -> None:
    attic.travel.services.finding = None
    attic.travel.request()
    await attic.travel.see("select 1 from steps where state = 'waiting'")
    later = "update steps set due_at = due_at + interval '1 year', deadline = deadline + interval '1 year' where state = 'waiting' returning 1"
    assert await attic.travel.rows(later)  # days pass below, and the run is to stay open
    [_, active] = await attic.travel.runs()
    for path in (attic.folder("1-1", run=active["run_id"]), attic.folder("1-1", run="not-a-run"), attic.folder("1-1", tenant="globex")):
        assert path in attic.left
    before = attic.left
    assert await attic.sweep(days=2) == Pass(unknown=2)
    assert attic.left == before


async def test_folders_from_before_a_refill_are_left_alone_for_the_entry_that_names_one_may_be_missing(attic: Attic) -> None:
    kept = attic.folder("1-2")
    refilled = "insert into journal (tenant_id, seq, at, kind, data) select 'acme', seq + 1, $1, 'refilled', '{}' from tenant_heads returning 1"
    assert await attic.travel.rows(refilled, attic.travel.clock.now())
    assert await attic.sweep(days=2) == Pass(unknown=1)
    assert attic.left == {kept}


async def test_a_pass_that_breaks_off_is_made_up_for_by_the_next(attic: Attic) -> None:
    for attempt in range(3):
        attic.folder(f"1-{attempt}")
    delete = attic.objects.delete_prefix
    deleted: list[str] = []

    async def once(bucket: str, prefix: str) -> int:
        if deleted:
            raise TryAgain("S3 is away", code="s3_down")
        deleted.append(prefix)
        return await delete(bucket, prefix)

    attic.objects.delete_prefix = once  # type: ignore[method-assign]
    with pytest.raises(TryAgain):
        await attic.sweep(days=2)
    assert len(attic.left) == 2
    attic.objects.delete_prefix = delete  # type: ignore[method-assign]
    assert (await attic.sweep()).folders == 2


async def test_a_pass_is_one_workers_and_nobodys_while_the_ledger_is_behind(attic: Attic) -> None:
    async def begins(**after: float) -> bool:
        attic.travel.clock.ahead += timedelta(**after)
        [row] = await attic.travel.rows("select begin_sweep($1, '6 hours') as mine", attic.travel.clock.now())
        return bool(row["mine"])

    assert await begins()
    assert not await begins()
    assert await begins(hours=7)
    await attic.travel.rows("insert into reconciling (reason) values ('set back') returning 1")
    assert not await begins(hours=7)
    await attic.travel.rows("delete from reconciling returning 1")
    assert await begins()
