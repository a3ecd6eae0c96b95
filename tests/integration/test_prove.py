"""`tidemill prove` and `tidemill verify` on a real ledger and a real Kafka, with neighbours and table played."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streams.folded import Data
from streams.kafka import open_admin
from streams.ledger.connection import connect
from streams.proof.neighbours import NeighbourAway, Neighbours, open_neighbours
from streams.proof.prove import Proof, Prover
from streams.proof.verify import Verified, View, ViewAway, verify
from streams.records import event_record
from streams.settings import Settings, from_stack
from streams.topics import create, declared
from tests.integration.ledger_moves import Moves

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(180)]


class World:
    """A ledger with its moves, Kafka, and neighbours that keep what is written into `accepted`; the table holds `states`."""

    def __init__(self, moves: Moves, dsn: str, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.moves, self.dsn, self.settings, self._producer = moves, dsn, settings, producer
        self.accepted: dict[str, list[Data]] = {"ml_engine": [], "inference": [], "monitoring": []}
        self.states: Any = {}
        self.source = "table"
        self.asked = 0

    async def publish(self) -> None:
        """What the outbox holds goes to Kafka and into the table, as a worker would have it."""
        for row in await self.moves.raw.fetch("select to_jsonb(o) as row from outbox o order by id"):
            if row["row"]["topic"]:
                await self._send(row["row"])
        for row in await self.moves.raw.fetch("select run_state(r) as state from runs r order by version"):
            state = row["state"] if isinstance(row["state"], dict) else orjson.loads(row["state"])
            self.states[state["tenant_id"]] = self.states.get(state["tenant_id"], {}) | {state["pipeline"]: state}
        await self.moves.raw.execute("delete from outbox")

    async def _send(self, row: Data, at: datetime | None = None) -> None:
        record, stamp = event_record(row), at and int(at.timestamp() * 1000)
        await self._producer.send_and_wait(row["topic"], record.value, record.key, headers=record.headers, timestamp_ms=stamp)

    async def effect(self, run: str, stage: str, name: str, path: str) -> str:
        """A command that was accepted and whose answer was kept."""
        key = f"{run}:{stage}:1"
        await self.moves.raw.execute(
            "insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, sent_at)"
            " values ($1, $2, 'acme', $3, 1, $4, 200, '', '', '{}', now())", key, run, stage, f"POST {path}",
        )  # fmt: skip
        self.accept(name, key, path)
        return key

    def accept(self, name: str, key: str, path: str, tenant: str = "acme") -> None:
        self.accepted[name].append({"idempotency_key": key, "method": "POST", "path": path, "tenant_id": tenant, "at": "now", "status": 200})

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/journal":
            rows = self.accepted[request.url.host.replace("-", "_")]
            return httpx.Response(200, json=[row for row in rows if row["tenant_id"] == request.url.params["tenant"]])
        self.asked += 1
        return httpx.Response(200, json={"source": self.source, "pipelines": self.states.get(request.url.path.split("/")[4], {})})

    @asynccontextmanager
    async def prover(self) -> AsyncIterator[Prover]:
        snapshot = await connect(self.dsn, timeout=30, name="test")
        urls = {name: f"http://{name.replace('_', '-')}" for name in self.accepted}
        try:
            async with (
                httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as http,
                snapshot.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield Prover(snapshot, self.moves.raw, Neighbours(http, urls), self.settings)
        finally:
            await snapshot.close()

    async def prove(self, run: str) -> Proof:
        async with self.prover() as prover:
            return await prover.run(UUID(run))

    async def prove_all(self) -> list[Proof]:
        async with self.prover() as prover:
            return [proof async for proof in prover.every()]

    async def verify(self) -> Verified:
        snapshot = await connect(self.dsn, timeout=30, name="test")
        try:
            async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as http:
                return await verify(snapshot, self.moves.raw, View(http, "http://view"), patience=0.6)
        finally:
            await snapshot.close()


@pytest.fixture
async def world(ledger_dsn: str, platform: Data) -> AsyncIterator[World]:
    settings = Settings.model_validate(from_stack(platform))
    async with open_admin(settings.kafka) as admin:
        await create(admin, declared(settings.kafka))
    moves = await Moves.open(ledger_dsn)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap)
    await producer.start()
    yield World(moves, ledger_dsn, settings, producer)
    await producer.stop()
    await moves.raw.close()


async def proven_run(world: World) -> str:
    """A run that is over, published, and accepted once by whom it spoke to."""
    run = str((await world.moves.whole())["outbox"][0]["run_id"])
    await world.moves.raw.execute("update journal set topic = 'index.built' where topic like '%.done'")
    await world.moves.raw.execute("update outbox set topic = 'index.built' where topic like '%.done'")
    await world.publish()
    await world.effect(run, "train", "ml_engine", "/api/v1/train")
    await world.effect(run, "deploy", "inference", "/api/v1/deploy")
    return run


def wrong(proof: Proof) -> list[tuple[str, str]]:
    return [(line.verdict, line.key) for line in proof.lines if line.mismatch]


async def test_a_run_is_proven_from_journal_topics_and_neighbours(world: World) -> None:
    run = await proven_run(world)
    proof = await world.prove(run)
    assert (proof.over, proof.mismatches, wrong(proof)) == (True, 0, [])
    assert [line.there for line in proof.lines] == ["1×"] * 7 + ["1× ml_engine", "1× inference"]
    assert [each.mismatches for each in await world.prove_all() if str(each.run_id) == run] == [0]


async def test_what_is_still_in_the_outbox_is_open_and_what_is_lost_is_named(world: World) -> None:
    run = str((await world.moves.request())["run_id"])
    proof = await world.prove(run)
    assert [(line.effect, line.verdict) for line in proof.lines] == [("run.accepted", "open")]
    await world.moves.raw.execute("delete from outbox")
    proof = await world.prove(run)
    assert [(line.effect, line.verdict) for line in proof.lines] == [("run.accepted", "not_on_kafka")]


async def test_an_event_published_twice_is_counted_and_fine(world: World) -> None:
    run = str((await world.moves.request())["run_id"])
    rows = await world.moves.raw.fetch("select to_jsonb(o) as row from outbox o")
    await world.publish()
    for row in rows:
        if row["row"]["topic"]:
            await world._send(row["row"])
    [line] = (await world.prove(run)).lines
    assert (line.verdict, line.there) == ("ok", "2×")


async def test_what_a_worker_whose_clock_is_hours_behind_has_published_is_found(world: World) -> None:
    run = str((await world.moves.request())["run_id"])
    rows = await world.moves.raw.fetch("delete from outbox o returning to_jsonb(o) as row")
    for row in rows:
        if row["row"]["topic"]:
            await world._send(row["row"], datetime.now(UTC) - timedelta(hours=3))
    [line] = (await world.prove(run)).lines
    assert (line.verdict, line.there) == ("ok", "1×")


async def test_forged_neighbours_and_lost_entries_are_each_found(world: World) -> None:
    run = await proven_run(world)
    key = f"{run}:train:1"
    world.accept("ml_engine", key, "/api/v1/train")
    assert wrong(await world.prove(run)) == [("doubled", key)]
    world.accepted["ml_engine"] = []
    assert wrong(await world.prove(run)) == [("missing_there", key)]
    world.accept("ml_engine", key, "/api/v1/train")
    world.accept("ml_engine", f"{run}:train:2", "/api/v1/train")
    assert wrong(await world.prove(run)) == [("unexplained", f"{run}:train:2")]
    world.accepted["ml_engine"].pop()
    gone = await world.moves.raw.fetchval("delete from journal where topic = 'run.finished' returning event_id")
    assert wrong(await world.prove(run)) == [("not_journalled", str(gone))]


async def test_effects_of_a_run_that_the_ledger_does_not_know_are_found_by_all(world: World) -> None:
    await proven_run(world)
    stranger = uuid4()
    world.accept("inference", f"{stranger}:deploy:1", "/api/v1/deploy")
    [found] = [proof for proof in await world.prove_all() if proof.run_id == stranger]
    assert (found.run_id, found.state, wrong(found)) == (stranger, "unknown", [("unknown_run", f"{stranger}:deploy:1")])


async def test_a_tenant_that_the_ledger_lost_whole_is_found_by_all(world: World) -> None:
    run = str((await world.moves.request("lost-whole"))["run_id"])
    await world.publish()
    assert [proof for proof in await world.prove_all() if proof.tenant_id == "lost-whole" and proof.mismatches] == []
    await world.moves.raw.execute("truncate tenants, tenant_heads, pipeline_heads, runs, steps, journal, causes, inbox cascade")
    [found] = [proof for proof in await world.prove_all() if proof.tenant_id == "lost-whole"]
    assert (str(found.run_id), found.state, [line.verdict for line in found.lines]) == (run, "unknown", ["unknown_run"])


async def test_the_neighbours_of_this_house_keep_journals_that_can_be_read(platform: Data) -> None:
    async with open_neighbours(Settings.model_validate(from_stack(platform))) as neighbours:
        journals = await neighbours.journals("nobody")
    assert journals == {"ml_engine": [], "inference": [], "monitoring": []}


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(200, text="<html>"), httpx.Response(200, json=[{"at": 1}])])
async def test_a_neighbour_whose_journal_cannot_be_read_is_named(answer: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as http:
        with pytest.raises(NeighbourAway, match="ml_engine"):
            await Neighbours(http, {"ml_engine": "http://engine"}).journals("acme")


async def test_table_rows_and_journal_that_agree_are_verified(world: World) -> None:
    await proven_run(world)
    await world.moves.request("globex")
    await world.publish()
    verified = await world.verify()
    assert (verified.differences, verified.tenants, verified.pipelines, verified.lagging) == ([], 2, 2, 0)


async def test_a_table_that_stays_behind_is_a_mismatch_and_one_that_catches_up_is_lag(world: World) -> None:
    await proven_run(world)
    before = dict(world.states["acme"])
    await world.moves.reopen(before["training"]["run_id"], "deploy")
    [found] = (await world.verify()).differences
    assert (found.code, found.about) == ("table_behind", "pipeline training")

    answer, world.asked = world.answer, 0

    async def slow(request: httpx.Request) -> httpx.Response:
        if world.asked == 1:
            await world.publish()
        return await answer(request)

    world.answer = slow  # type: ignore[method-assign]
    verified = await world.verify()
    assert (verified.differences, verified.lagging) == ([], 1)


async def test_a_table_that_says_otherwise_is_named_by_its_field(world: World) -> None:
    await proven_run(world)
    world.states["acme"]["training"]["state"] = "failed"
    [found] = (await world.verify()).differences
    assert (found.code, found.sentence) == ("table_differs", "state: ledger succeeded, table failed")
    world.states["acme"]["training"]["version"] += 5
    [found] = (await world.verify()).differences
    assert found.code == "table_ahead"
    world.source = "ledger"
    [found] = (await world.verify()).differences
    assert found.code == "table_away"


async def test_a_row_changed_by_hand_differs_from_both_others(world: World) -> None:
    await proven_run(world)
    await world.moves.raw.execute("update runs set reason = 'because'")
    assert [each.code for each in (await world.verify()).differences] == ["run_differs", "table_differs"]


async def test_a_view_that_does_not_answer_is_named(world: World) -> None:
    await world.moves.request()

    async def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    world.answer = refuse  # type: ignore[method-assign]
    with pytest.raises(ViewAway, match="does not answer"):
        await world.verify()
