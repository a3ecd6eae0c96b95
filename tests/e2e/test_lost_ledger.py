"""A ledger that is lost, and one that is restored from an old backup: on real servers everything comes back from Kafka, and no effect is doubled."""

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from streams.local.ports import HOST
from tests.chaos.workers import ROOT, Worker, clean_environment
from tests.e2e.house import EFFECTS, QUICK, furnish, publish
from tests.integration.test_reference_neighbours import free_ports
from tests.stack import running_servers

pytestmark = pytest.mark.timeout(240)

LONG = {"epochs": 400, "factors": 64}
SHORT = {"epochs": 3, "factors": 8}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    home = tmp_path_factory.mktemp("lost", numbered=True) / "home"
    with running_servers(home, neighbours=True) as addresses:
        yield home, addresses


@dataclass
class House:
    """The servers, a ledger that can be taken away, and one worker."""

    home: Path
    at: dict[str, Any]
    http: httpx.AsyncClient
    worker: Worker
    pages: str
    dsn: str
    folder: Path

    async def tidemill(self, *words: str) -> tuple[int, Any]:
        """A command's exit status and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streams.cli", *words, cwd=ROOT, env=clean_environment(self.worker.environment),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complained = await process.communicate()
        return int(process.returncode or 0), (json.loads(said) if "--json" in words and said else complained.decode() + said.decode())

    async def admin(self, sql: str) -> None:
        connection = await asyncpg.connect(self.at["postgres"])
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def lose(self, *, copy_of: str | None = None) -> None:
        """The database is gone; in its place comes an empty one, or a backup."""
        await self.admin("drop database if exists ledger_here with (force)")
        await self.admin(f"create database ledger_here {f'template {copy_of}' if copy_of else ''}")
        if copy_of is None:
            assert (await self.tidemill("init"))[0] == 0

    async def rows(self, sql: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(sql, *args))
        finally:
            await connection.close()

    async def request(self, tenant: str, config: dict[str, int]) -> None:
        if not await self.rows("select 1 from tenants where tenant_id = $1", tenant):
            await furnish(self, tenant, self.folder)  # type: ignore[arg-type]  # it only looks at the addresses
        await publish(self, tenant, config)  # type: ignore[arg-type]

    async def until(self, sql: str, *args: Any, rows: int = 1, within: float = 90) -> list[Any]:
        for _ in range(int(within / 0.1)):
            if len(found := await self.rows(sql, *args)) >= rows:
                return found
            await asyncio.sleep(0.1)
        steps = await self.rows("select tenant_id, stage, state, round, code, error, due_at from steps where finished_at is null")
        raise AssertionError(f"not within {within} s: {sql} {args}; open: {steps}\n{self.worker.said().decode()[-4000:]}")

    async def over(self, tenant: str, runs: int = 1) -> None:
        await self.until("select 1 from runs where tenant_id = $1 and finished_at is not null", tenant, rows=runs)
        states = [row["state"] for row in await self.rows("select state from runs where tenant_id = $1", tenant)]
        assert states == ["succeeded"] * runs, (states, await self.rows("select * from steps where tenant_id = $1", tenant))

    async def effects(self, tenant: str) -> Counter[tuple[str, str]]:
        """How often each neighbour accepted each of the tenant's commands: (key, path)."""
        found: Counter[tuple[str, str]] = Counter()
        for neighbour in ("ml_engine", "inference"):
            for row in (await self.http.get(f"{self.at[neighbour]}/journal", params={"tenant": tenant})).json():
                found[":".join(row["idempotency_key"].split(":")[:3]), row["path"]] += 1
        return found

    async def assert_one_effect_each(self, tenant: str) -> None:
        runs = [str(row["run_id"]) for row in await self.rows("select run_id from runs where tenant_id = $1", tenant)]
        assert await self.effects(tenant) == {(f"{run}:{stage}:1", path): 1 for run in runs for stage, path in EFFECTS.items()}

    async def readiness(self) -> dict[str, Any]:
        """What the worker says of itself, as soon as it says something."""
        for _ in range(300):
            with suppress(httpx.TransportError):
                return dict((await self.http.get(f"{self.pages}/readyz")).json())
            await asyncio.sleep(0.1)
        raise AssertionError(self.worker.said().decode()[-3000:])

    async def held_back(self) -> str:
        """Wait until the worker says that it is reconciling; gives the sentence."""
        for _ in range(300):
            if sentence := (await self.readiness()).get("reconciling"):
                return str(sentence)
            await asyncio.sleep(0.1)
        raise AssertionError(self.worker.said().decode()[-3000:])


@pytest.fixture
async def house(servers: tuple[Path, dict[str, Any]], tmp_path: Path) -> AsyncIterator[House]:
    home, at = servers
    dsn = f"{at['postgres'].rpartition('/')[0]}/ledger_here"
    [port] = free_ports(1)
    environment = {**QUICK, "TIDEMILL_HOME": str(home), "TIDEMILL_LEDGER__DSN": dsn, "TIDEMILL_RUNTIME__PAGES_PORT": str(port)}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        worker = Worker(f"worker-{port}", home, environment)
        house = House(home, at, http, worker, f"http://{HOST}:{port}", dsn, tmp_path)
        stack.push_async_callback(worker.kill)
        yield house


async def begin(house: House) -> None:
    """A fresh ledger that knows all that Kafka knows: the servers serve several tests."""
    await house.lose()
    status, said = await house.tidemill("rebuild", "--from-topics", "--yes")
    assert status == 0, said
    await house.worker.start()
    await house.worker.ready()


async def test_a_lost_ledger_comes_back_from_the_topics_and_open_runs_go_on(house: House) -> None:
    await begin(house)
    for tenant in ("done-a", "done-b"):
        await house.request(tenant, SHORT)
    await house.over("done-a")
    await house.over("done-b")
    await house.request("waits", LONG)
    await house.until("select 1 from steps where tenant_id = 'waits' and state = 'waiting'")
    await house.request("waits", SHORT)
    assert (await house.tidemill("trigger", "done-a", "--key", "k1"))[0] == 0
    await house.until("select 1 from runs where tenant_id = 'waits' and state = 'pending'")
    await house.over("done-a", 2)
    before = await house.rows("select run_id, state, requested_at, causes from runs where finished_at is not null order by run_id")
    entries = await house.rows("select tenant_id, seq, kind, event_id, at from journal where kind <> 'refilled' order by tenant_id, seq")
    await house.until("select 1 where not exists (select 1 from outbox)")  # what Kafka was not told yet is gone with the ledger
    await house.worker.kill()
    await house.lose()

    await house.worker.start()
    sentence = await house.held_back()
    assert "tidemill rebuild --from-topics" in sentence
    assert re.search(r"at least \d+ journal entries of \d+ tenants .* \(\d+ offsets behind\)", sentence)
    for words in (("trigger", "done-b"), ("pause", "--tenant", "done-b", "--reason", "upgrade"), ("tenants", "add", "done-c")):
        status, said = await house.tidemill(*words)
        assert (status, said.startswith("reconciling: ")) == (1, True), said

    status, said = await house.tidemill("rebuild", "--from-topics", "--json")
    assert status == 0, said
    mine: dict[str, Any] = {"done-a": [], "done-b": [], "waits": []}
    assert {each["tenant_id"]: each["missing"] for each in said["tenants"] if each["tenant_id"] in mine} == mine
    back = await house.rows("select tenant_id, seq, kind, event_id, at from journal where kind <> 'refilled' order by tenant_id, seq")
    assert set(entries) <= set(back)
    after = await house.rows("select run_id, state, requested_at, causes from runs where finished_at is not null order by run_id")
    assert set(before) <= set(after)

    await house.over("waits", 2)
    for tenant in ("done-a", "done-b", "waits"):
        await house.assert_one_effect_each(tenant)
    assert (await house.tidemill("trigger", "done-a", "--key", "k1"))[0] == 0  # the same key is the same request, as before
    assert len(await house.rows("select 1 from runs where tenant_id = 'done-a'")) == 2
    status, said = await house.tidemill("rebuild", "--check")
    assert status == 0, said
    status, said = await house.tidemill("prove", "--all", "--json")
    assert status == 0, said
    versions = await house.rows("select tenant_id, number, state from versions order by tenant_id, number")
    assert [tuple(row) for row in versions if row["tenant_id"] == "waits"] == [("waits", 1, "retired"), ("waits", 2, "live")]
    assert await house.rows("select * from dead_letters") == []
    assert (await house.readiness())["status"] == "ready"
    await house.worker.kill()


async def test_a_ledger_restored_from_an_old_backup_adopts_what_happened_since(house: House) -> None:
    await begin(house)
    await house.request("early", LONG)
    await house.until("select 1 from steps where tenant_id = 'early' and state = 'waiting'")
    await house.worker.kill()
    await house.admin("drop database if exists backup_here")
    await house.admin("create database backup_here template ledger_here")
    await house.worker.start()
    await house.over("early")
    await house.request("since", SHORT)
    await house.over("since")
    await house.request("early", LONG)
    await house.until("select 1 from steps where tenant_id = 'early' and state = 'waiting'")
    await house.worker.kill()
    await house.lose(copy_of="backup_here")

    await house.worker.start()
    assert "tidemill rebuild --adopt" in await house.held_back()
    house.worker.send(signal.SIGTERM)
    assert await house.worker.ended(15) == 0  # held back is no reason not to stop when told to
    await house.worker.start()
    await house.held_back()
    status, said = await house.tidemill("rebuild", "--from-topics", "--yes")
    assert (status, said.startswith("ledger_not_empty: ")) == (1, True)
    effects = await house.effects("early")
    status, said = await house.tidemill("rebuild", "--adopt", "--json")
    assert status == 0, said
    assert effects == await house.effects("early")

    await house.over("early", 2)
    for tenant in ("early", "since"):
        await house.assert_one_effect_each(tenant)
    status, said = await house.tidemill("rebuild", "--check")
    assert status == 0, said
    assert (await house.tidemill("prove", "--all"))[0] == 0
    assert await house.rows("select * from dead_letters") == []
    await house.worker.kill()


async def test_a_worker_whose_ledger_is_behind_by_echoes_alone_goes_on_by_itself(house: House) -> None:
    await begin(house)
    await house.request("echoes", SHORT)
    await house.over("echoes")
    await house.until("select 1 where not exists (select 1 from outbox)")
    await asyncio.sleep(2)  # the group's commits
    await house.worker.kill()
    await house.rows("update offsets set next = greatest(next - 2, 0) where topic in ('training.validated', 'model.deployed', 'training.requested')")
    await house.worker.start()
    await house.worker.ready()
    await house.until("select 1 where not exists (select 1 from gaps where state = 'open')")
    assert b"are read again" in house.worker.said()
    await house.assert_one_effect_each("echoes")
    assert await house.rows("select * from dead_letters") == []
    await house.worker.kill()
