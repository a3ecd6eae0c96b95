"""The command as people and scripts run it: a process of its own, against real servers, with a worker beside it."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer

from streams.items import Arrived
from streams.kafka import open_admin
from streams.settings import KafkaSettings
from streams.stage import GiveUp
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120)]


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Tidemill = Callable[..., Awaitable[Said]]


@pytest.fixture
def home(platform: dict[str, Any], ledger_dsn: str, tmp_path: Path) -> Path:
    """A folder whose stack.json names the session's servers and this test's ledger."""
    (tmp_path / "stack.json").write_text(json.dumps(platform | {"postgres": ledger_dsn}))
    return tmp_path


@pytest.fixture
def tidemill(home: Path) -> Tidemill:
    async def run(*words: str, **settings: str) -> Said:
        process = await start(home, *words, **settings)
        out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err
        return Said(process.returncode, out.decode(), err.decode())

    return run


async def start(home: Path, *words: str, **settings: str) -> asyncio.subprocess.Process:
    environment = {"TIDEMILL_HOME": str(home), "PATH": "/usr/bin:/bin", "USER": "ada", **settings}
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "streams.cli", *words]
    root = Path(__file__).parents[2]
    return await asyncio.create_subprocess_exec(*command, cwd=root, env=environment, stdout=pipe, stderr=pipe, preexec_fn=_hear_ctrl_c)


def _hear_ctrl_c() -> None:
    """Tests that run in a shell's background inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours(finding={"status": "completed", "model_path": "m"})


@pytest.fixture
async def worker(ledger_dsn: str, neighbours: Neighbours) -> AsyncIterator[Travel]:
    """A worker whose jobs are done at the first look, a moment later."""
    travel = Travel(ledger_dsn, (TOY,), neighbours)

    async def time_flies() -> None:
        while True:
            await asyncio.sleep(0.2)
            await travel.minutes_pass()

    async with travelling(travel):
        flying = asyncio.create_task(time_flies())
        yield travel
        flying.cancel()
        await asyncio.gather(flying, return_exceptions=True)


async def test_trigger_waits_for_the_end_and_says_what_became_of_it(tidemill: Tidemill, worker: Travel) -> None:
    said = await tidemill("trigger", "acme", "--key", "monday", "--wait", "--timeout", "60", "--json")
    assert (said.status, said.json["outcome"], said.json["tenant_id"]) == (0, "succeeded", "acme")
    assert "validate" in said.err
    again = await tidemill("trigger", "acme", "--key", "monday", "--json")
    assert (again.json["result"], again.json["run_id"]) == ("seen", said.json["run_id"])


async def test_a_failed_run_is_exit_1_and_can_be_retried(tidemill: Tidemill, worker: Travel, neighbours: Neighbours) -> None:
    neighbours.fail["validate"] = [GiveUp("the bucket is empty", code="no_data")]
    failed = await tidemill("trigger", "acme", "--wait", "--timeout", "60")
    assert failed.status == 1
    assert "no_data: the bucket is empty" in failed.out
    again = await tidemill("retry", "--all", "--code", "no_data", "--since", "1h", "--json")
    assert [(each["result"], each["stage"]) for each in again.json] == [("reopened", "validate")]
    [run] = await worker.over()
    assert run["state"] == "succeeded"
    shown = (await tidemill("show", str(run["run_id"])[:8], "--json")).json
    assert (shown["steps"][0]["stage"], shown["steps"][0]["round"]) == ("validate", 2)
    assert "reopened" in [each["kind"] for each in (await tidemill("events", str(run["run_id"])[:8], "--json")).json]


async def test_a_run_that_nobody_works_on_is_said_to_wait_and_can_be_cancelled(tidemill: Tidemill) -> None:
    said = await tidemill("trigger", "acme", "--wait", "--timeout", "0.1")
    assert said.status == 1
    assert "no worker is alive" in said.err
    assert "wait_timeout: " in said.err
    [run] = (await tidemill("runs", "--json")).json
    assert set(run) >= {"run_id", "tenant_id", "pipeline", "state", "stage", "requested_at", "finished_at", "outcome", "reason"}
    assert (run["state"], run["outcome"]) == ("running", None)
    assert (await tidemill("cancel", run["run_id"])).status == 0
    [run] = (await tidemill("runs", "--tenant", "acme", "--state", "cancelled", "--json")).json
    assert run["outcome"] == "cancelled"
    over = await tidemill("cancel", run["run_id"][:9])
    assert (over.status, over.err.partition(":")[0]) == (1, "run_over")


async def test_all_triggers_every_active_tenant(tidemill: Tidemill) -> None:
    for tenant in ("acme", "globex", "initech"):
        assert (await tidemill("tenants", "add", tenant)).status == 0
    await tidemill("tenants", "suspend", "globex")
    assert (await tidemill("trigger", "--all", "--dry-run")).out.split() == ["acme", "initech"]
    assert (await tidemill("runs", "--json")).json == []
    made = (await tidemill("trigger", "--all", "--json")).json
    assert [(each["tenant_id"], each["result"]) for each in made] == [("acme", "run"), ("initech", "run")]
    assert [(each["tenant_id"], each["status"]) for each in (await tidemill("tenants", "list", "--json")).json][1] == ("globex", "suspended")


async def test_a_dry_run_of_one_tenant_says_what_would_come_of_it_and_does_nothing(tidemill: Tidemill) -> None:
    assert (await tidemill("tenants", "add", "acme")).status == 0
    tried = await tidemill("trigger", "acme", "--dry-run")
    assert (tried.status, tried.out.strip()) == (0, "a run of acme would begin")
    assert (await tidemill("runs", "--json")).json == []
    made = (await tidemill("trigger", "acme", "--key", "k", "--json")).json
    assert (await tidemill("trigger", "acme", "--dry-run", "--json")).json["result"] == "pending"
    assert f"asked for run {made['run_id']}" in (await tidemill("trigger", "acme", "--key", "k", "--dry-run")).out
    follows = (await tidemill("trigger", "acme", "--json")).json
    assert f"merged into run {follows['run_id']}" in (await tidemill("trigger", "acme", "--dry-run")).out
    assert len((await tidemill("runs", "--json")).json) == 2
    refused = await tidemill("trigger", "nobody", "--dry-run", TIDEMILL_RUNTIME__UNKNOWN_TENANTS="refuse")
    assert (refused.out, refused.err.partition(":")[0], refused.status) == ("", "unknown_tenant", 1)


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("trigger", "nobody"), 1, "unknown_tenant"),
        (("trigger", "No Body"), 2, "bad_tenant"),
        (("trigger", "nobody", "--config", '{"epochs": "x"}'), 2, "bad_field"),
        (("trigger", "--all", "--dry-run", "--pipeline", "nope"), 2, "unknown_pipeline"),
        (("trigger", "--all", "--dry-run", "--pipeline", "quality", "--config", '{"epochs": 5}'), 2, "bad_field"),
        (("runs", "--tenant", "nobody"), 1, "unknown_tenant"),
        (("show", "ffff"), 1, "unknown_run"),
        (("cancel", "x y"), 1, "unknown_run"),
        (("retry", "ffff"), 1, "unknown_run"),
        (("versions", "nobody"), 1, "unknown_tenant"),
        (("tenants", "suspend", "nobody"), 1, "unknown_tenant"),
        (("dead", "show", "ffff"), 1, "unknown_dead_letter"),
        (("dead", "drop"), 2, "wrong_usage"),
    ],
)
async def test_what_does_not_exist_is_one_sentence(tidemill: Tidemill, words: tuple[str, ...], status: int, code: str) -> None:
    said = await tidemill(*words, TIDEMILL_RUNTIME__UNKNOWN_TENANTS="refuse")
    assert (said.status, said.out, said.err.partition(":")[0]) == (status, "", code)
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("words", [("runs",), ("show", "ff"), ("trigger", "acme"), ("init",), ("tenants", "list"), ("dead", "list")], ids=" ".join)
async def test_a_server_that_is_not_up_is_named_with_status_3(tidemill: Tidemill, words: tuple[str, ...]) -> None:
    away = {"TIDEMILL_LEDGER__DSN": "postgresql://ada:hunter2@127.0.0.1:9/tidemill"}
    said = await tidemill(*words, **away)
    assert (said.status, said.out) == (3, "")
    assert "ledger_away: PostgreSQL at 127.0.0.1:9 does not answer; is `tidemill up` running?" in said.err
    assert "hunter2" not in said.err


@pytest.mark.parametrize("verb", ["runs", "worker"])
async def test_a_database_without_the_schema_asks_for_init(tidemill: Tidemill, platform: dict[str, Any], verb: str) -> None:
    said = await tidemill(verb, TIDEMILL_LEDGER__DSN=platform["warehouse"])
    assert said.status == 3
    assert "ledger_empty: " in said.err
    assert "`tidemill init`" in said.err


async def test_a_dead_letter_comes_back_by_its_first_identity(
    tidemill: Tidemill, platform: dict[str, Any], ledger_dsn: str, neighbours: Neighbours
) -> None:
    assert (await tidemill("init")).status == 0
    assert (await tidemill("topics", "diff", "--json")).json == []
    travel = Travel(ledger_dsn, (TOY,), neighbours, unknown_tenants="refuse")
    async with travelling(travel):
        record = await published(platform["kafka"], travel, b'{"tenant_id": "acme"}')
        await travel.runtime.inbox.take(record)
        [letter] = (await tidemill("dead", "list", "--json")).json
        assert (letter["code"], letter["tenant_id"]) == ("unknown_tenant", "acme")
        strict = {"TIDEMILL_RUNTIME__UNKNOWN_TENANTS": "refuse"}
        refused = await tidemill("dead", "redrive", letter["id"][:8], "--json", **strict)
        assert (refused.status, refused.json[0]["code"]) == (1, "unknown_tenant")
        await tidemill("tenants", "add", "acme")
        taken = await tidemill("dead", "redrive", "--all", "--json", **strict)
        assert (taken.status, [each["result"] for each in taken.json]) == (0, ["run"])
        assert (await tidemill("dead", "redrive", letter["id"], **strict)).status == 1
        await travel.runtime.inbox.take(record)  # Kafka hands it over once more
        assert len(await travel.runs()) == 1
        assert (await tidemill("dead", "list", "--json")).json == []
        assert (await tidemill("dead", "show", letter["id"], "--json")).json["value"] == '{"tenant_id": "acme"}'


async def test_many_dead_letters_come_back_no_faster_than_asked(
    tidemill: Tidemill, platform: dict[str, Any], ledger_dsn: str, neighbours: Neighbours
) -> None:
    assert (await tidemill("init")).status == 0
    travel = Travel(ledger_dsn, (TOY,), neighbours, unknown_tenants="refuse")
    async with travelling(travel):
        for tenant in ("bolt", "core"):
            await travel.runtime.inbox.take(await published(platform["kafka"], travel, json.dumps({"tenant_id": tenant}).encode()))
            await tidemill("tenants", "add", tenant)
        taken = await tidemill("dead", "redrive", "--all", "--rate", "1", "--json")
        assert [each["result"] for each in taken.json] == ["run", "run"]
        [row] = await travel.rows("select extract(epoch from max(settled_at) - min(settled_at))::float8 as apart from dead_letters")
        assert row["apart"] >= 0.9


async def published(bootstrap: str, travel: Travel, value: bytes) -> Arrived:
    """A record as a worker of this cluster would read it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        sent = await producer.send_and_wait("training.requested", value)
        async with open_admin(KafkaSettings(bootstrap=bootstrap)) as admin:
            travel.runtime.inbox._cluster = str((await admin.describe_cluster())["cluster_id"])
    finally:
        await producer.stop()
    return Arrived("training.requested", sent.partition, sent.offset, sent.timestamp, None, value, [])


async def test_doctor_names_every_dependency_and_what_is_wrong(tidemill: Tidemill) -> None:
    said = await tidemill("doctor", "--json")
    found = {check["name"]: check for check in said.json["checks"]}
    for name in ("kafka", "ledger", "warehouse", "redis", "s3", "ml_engine", "inference", "monitoring"):
        assert found[name]["latency_ms"] > 0
    assert {name for name in ("warehouse", "redis", "ml_engine", "inference", "monitoring") if found[name]["status"] != "ok"} == set()
    assert found["workers"]["status"] == "wrong"
    assert "start `tidemill worker`" in found["workers"]["detail"]
    assert said.status in (1, 3)  # 3 until some test has made the topics
    away = await tidemill("doctor", "--json", TIDEMILL_REDIS__URL="redis://:hunter2@127.0.0.1:9/0")
    assert away.status == 3
    assert "redis is down" in away.err
    assert "hunter2" not in away.out + away.err


async def test_ctrl_c_while_waiting_ends_with_130(home: Path, ledger_dsn: str) -> None:
    process = await start(home, "trigger", "acme", "--wait")
    assert process.stderr is not None
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, b"Traceback" in err) == (130, False)
