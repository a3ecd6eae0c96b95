"""The HTTP client against a scripted server on loopback: what it sends, what it believes, and what it calls every failure."""

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import BaseModel

from agents import train
from schemas.states import RunState, StepState
from schemas.training import TrainingStarted
from streams import outcome
from streams.clients import http as client
from streams.clients.answers import Problem
from streams.clients.http import Neighbour, open_neighbour
from streams.clients.ml_engine import HttpMLEngine
from streams.outcome import Leased
from streams.settings import MLEngineSettings
from streams.stage import GiveUp, Retry, TryAgain
from streams.step import LeaseLost
from tests.fakes import a_step, in_hand
from tests.unit.stages import a_house

pytestmark = [pytest.mark.enable_socket, pytest.mark.looptime(False), pytest.mark.timeout(20)]

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Started(BaseModel):
    job_id: str


class Order(BaseModel):
    tenant_id: str = "acme"


class Server:
    """Answers the n-th request with the n-th script, the last one for ever; keeps the requests."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._one(reader, writer)
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self.requests.append((lines[0], headers, await reader.readexactly(int(headers.get("content-length", 0)))))
        await self.scripts[min(len(self.requests), len(self.scripts)) - 1](writer)
        await writer.drain()


def says(status: int, body: object = None, **headers: str) -> Script:
    """A well-formed answer."""
    data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()

    async def script(writer: asyncio.StreamWriter) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data)

    return script


async def hangs(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def resets(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def floods(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await writer.drain()


STARTED = says(202, {"job_id": "j1"})


def free_port() -> int:
    """One below the range that outgoing connections are given."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randint(15000, 32000)))
            return port


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    port = free_port()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", port)
    server.url = f"http://127.0.0.1:{port}"
    yield server
    listening.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if "Server.serve" in repr(task):
            task.cancel()
    await asyncio.sleep(0)


@pytest.fixture
async def engine(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Neighbour]:
    monkeypatch.setattr(client, "QUICK_PAUSES", (0.01, 0.01, 0.01))
    async with open_neighbour("ml_engine", MLEngineSettings(url=server.url, timeout=1.0, max_response=10_000)) as neighbour:
        yield neighbour


async def order(engine: Neighbour) -> Started:
    return await engine.post("/api/v1/train", Order(), Started)


@pytest.fixture
def step():
    with in_hand(a_step("train", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")) as step:
        yield step


async def test_a_command_carries_key_trace_and_plain_json_and_its_answer_is_noted(server, engine, step):
    server.scripts = [STARTED]
    assert (await order(engine)).job_id == "j1"
    [(line, headers, body)] = server.requests
    assert line == "POST /api/v1/train HTTP/1.1"
    assert headers["idempotency-key"] == f"{step.run_id}:train:1"
    assert headers["traceparent"] == step.traceparent
    assert headers["accept-encoding"] == "identity"
    assert json.loads(body) == {"tenant_id": "acme"}
    [effect] = step.effects
    assert (effect.key, effect.command, effect.status, effect.reply) == (step.key, "POST /api/v1/train", 202, {"job_id": "j1"})


async def test_a_trace_context_that_is_none_is_not_passed_on(server, engine):
    server.scripts = [STARTED]
    with in_hand(a_step("train", traceparent="x\r\nhost: evil")):
        await order(engine)
    assert "traceparent" not in server.requests[0][1]


async def test_a_command_without_any_key_is_a_mistake_of_ours(engine):
    with pytest.raises(RuntimeError, match="idempotency key"):
        await order(engine)


async def test_an_explicit_key_replaces_that_of_the_step_and_is_noted_too(server, engine, step):
    server.scripts = [STARTED]
    await engine.post("/x", Order(), Started, key="cancel:j1")
    assert server.requests[0][1]["idempotency-key"] == "cancel:j1"
    assert step.effects[0].key == "cancel:j1"


@pytest.mark.parametrize("trouble", [says(500), says(502, b"<html>"), says(503), resets, says(429), says(409, {"code": "in_progress"})])
async def test_a_short_trouble_is_bridged_under_the_same_key(server, engine, step, trouble):
    server.scripts = [trouble, trouble, STARTED]
    assert (await order(engine)).job_id == "j1"
    assert len({headers["idempotency-key"] for _, headers, _ in server.requests}) == 1
    assert len(server.requests) == 3
    assert len(step.effects) == 1


async def test_the_lease_is_asked_before_every_send(server, engine):
    server.scripts = [says(503), STARTED]
    held = iter([True, False])
    with in_hand(a_step("train", lease_held=lambda: next(held))), pytest.raises(LeaseLost):
        await order(engine)
    assert len(server.requests) == 1


async def test_a_lasting_5xx_costs_an_attempt(server, engine, step):
    server.scripts = [says(500, {"code": "internal"})]
    with pytest.raises(TryAgain, match="answered POST /api/v1/train with 500") as said:
        await order(engine)
    assert (said.value.code, said.value.free, len(server.requests)) == ("ml_engine_error", False, 4)
    assert step.effects == []


@pytest.mark.parametrize(("asked", "waits"), [("1000000000", 60), ("5", 5), ("Fri, 31 Dec 9999 23:59:59 GMT", 60)])
async def test_retry_after_is_obeyed_up_to_a_minute_without_holding_the_step(server, engine, step, asked, waits):
    server.scripts = [says(429, retry_after=asked)]
    with pytest.raises(TryAgain) as said:
        await order(engine)
    assert said.value.after == timedelta(seconds=waits)
    assert (said.value.code, said.value.free, said.value.waiting_for, len(server.requests)) == ("ml_engine_busy", True, "ml_engine", 1)


@pytest.mark.parametrize("asked", ["-5", "soon", "", "0", "1e9999", "٣"])
async def test_a_senseless_retry_after_is_ignored(server, engine, step, asked):
    server.scripts = [says(503, retry_after=asked.encode().decode("latin-1")), STARTED]
    assert (await order(engine)).job_id == "j1"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ml_engine_refused"),
        (401, "ml_engine_forbidden"),
        (404, "ml_engine_not_found"),
        (413, "ml_engine_too_large"),
        (422, "ml_engine_refused"),
    ],
)
async def test_a_4xx_is_final_named_and_says_why(server, engine, step, status, code):
    server.scripts = [says(status, {"code": "bad", "message": "epochs:\n\x1b[31m must be 1 to 1000"})]
    with pytest.raises(GiveUp) as said:
        await order(engine)
    assert said.value.code == code
    assert said.value.sentence.isprintable()
    assert "must be 1 to 1000" in said.value.sentence
    assert "tidemill retry" in said.value.sentence
    assert len(server.requests) == 1
    assert step.effects[0].status == status


@pytest.mark.parametrize(
    "lie",
    [
        says(200, b"<html>please log in</html>"),
        says(200, [1, 2]),
        says(200, {"job": "j1"}),
        says(200, b"\xff\xfe"),
        says(200, b"[" * 9000),
        says(200, b'{"job_id": "j1"}', content_encoding="gzip"),
        says(204, b""),
        floods,
    ],
)
async def test_an_answer_that_cannot_be_the_engines_is_not_believed(server, engine, step, lie):
    server.scripts = [lie]
    with pytest.raises(TryAgain) as said:
        await order(engine)
    assert (said.value.code, said.value.free) == ("ml_engine_lied", False)


async def test_redirects_are_not_followed(server, engine, step):
    server.scripts = [says(307, location="http://169.254.169.254/latest/meta-data")]
    with pytest.raises(GiveUp) as said:
        await order(engine)
    assert said.value.code == "ml_engine_redirects"
    assert "169.254" not in said.value.sentence
    assert len(server.requests) == 1


@pytest.mark.parametrize("slow", [hangs, drips])
async def test_an_answer_that_never_ends_is_cut_off_at_the_deadline(server, engine, step, slow):
    server.scripts = [slow]
    began = asyncio.get_running_loop().time()
    with pytest.raises(TryAgain) as said:
        await order(engine)
    assert (said.value.code, said.value.free, said.value.waiting_for) == ("ml_engine_timeout", True, "ml_engine")
    assert asyncio.get_running_loop().time() - began < 3


async def test_an_answer_that_never_ends_while_others_get_theirs_costs_an_attempt(server, engine):
    server.scripts = [hangs, STARTED]
    with in_hand(a_step("train")):
        hanging = asyncio.create_task(order(engine))
    while not server.requests:  # noqa: ASYNC110 - the server is no fake that could tell
        await asyncio.sleep(0.01)
    with in_hand(a_step("train")):
        await order(engine)
    with pytest.raises(TryAgain) as said:
        await hanging
    assert (said.value.code, said.value.free) == ("ml_engine_timeout", False)


async def test_a_call_never_outlives_its_step(server):
    server.scripts = [hangs]
    async with open_neighbour("ml_engine", MLEngineSettings(url=server.url, timeout=15)) as engine:
        now = asyncio.get_running_loop().time()
        with in_hand(a_step("train", deadline=now + 0.2)), pytest.raises(TryAgain):
            await order(engine)
        assert asyncio.get_running_loop().time() - now < 5


async def test_an_engine_that_is_not_there_costs_no_attempt(step, monkeypatch):
    monkeypatch.setattr(client, "QUICK_PAUSES", (0.01, 0.01, 0.01))
    async with open_neighbour("ml_engine", MLEngineSettings(url=f"http://127.0.0.1:{free_port()}")) as engine:
        with pytest.raises(TryAgain, match="TIDEMILL_ML_ENGINE__URL") as said:
            await order(engine)
    assert (said.value.code, said.value.free, said.value.waiting_for) == ("ml_engine_down", True, "ml_engine")


async def test_a_name_that_does_not_resolve_is_named(step, monkeypatch):
    monkeypatch.setattr(client, "QUICK_PAUSES", ())
    async with open_neighbour("ml_engine", MLEngineSettings(url="http://nowhere.invalid", timeout=10)) as engine:
        with pytest.raises(TryAgain, match="does not resolve") as said:
            await order(engine)
    assert (said.value.code, said.value.free) == ("ml_engine_dns", True)


async def test_a_server_that_does_not_speak_tls_is_named(server, step, monkeypatch):
    monkeypatch.setattr(client, "QUICK_PAUSES", ())
    server.scripts = [resets]

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    settings = MLEngineSettings(url=f"https://127.0.0.1:{port}")
    async with await asyncio.start_server(plain, "127.0.0.1", port), open_neighbour("ml_engine", settings) as engine:
        with pytest.raises(TryAgain, match="TLS") as said:
            await order(engine)
    assert said.value.code == "ml_engine_tls"


async def test_a_reset_in_the_middle_costs_an_attempt(server, engine, step):
    server.scripts = [resets]
    with pytest.raises(TryAgain) as said:
        await order(engine)
    assert (said.value.code, said.value.free) == ("ml_engine_broke_off", False)


async def test_statuses_that_are_answers_are_answers(server, engine):
    server.scripts = [says(404, {"code": "unknown_job", "message": "no such job"})]
    answer = await engine.call("GET", "/api/v1/jobs/j1/status", {200: Started, 404: Problem})
    assert answer == Problem(code="unknown_job", message="no such job")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (says(400), "ml_engine_refused"),
        (says(401), "ml_engine_forbidden"),
        (says(403, {"code": "no_rights"}), "ml_engine_forbidden"),
        (says(404, {"detail": "Not Found"}), "ml_engine_not_found"),
        (says(307, location="/login"), "ml_engine_redirects"),
    ],
)
async def test_a_refused_question_after_a_job_does_not_end_the_job(server, engine, answer, code):
    server.scripts = [answer]
    started = TrainingStarted(tenant_id="acme", run_id=uuid4(), job_id="job-1")
    with in_hand(a_step("train")), pytest.raises(TryAgain) as said:
        await train.watcher.ask(started, a_house(ml_engine=HttpMLEngine(engine)))
    assert said.value.code == code


async def test_a_job_that_the_engine_says_it_does_not_know_is_forgotten(server, engine):
    server.scripts = [says(404, {"code": "unknown_job"})]
    started = TrainingStarted(tenant_id="acme", run_id=uuid4(), job_id="job-1")
    with in_hand(a_step("train")), pytest.raises(GiveUp) as said:
        await train.watcher.ask(started, a_house(ml_engine=HttpMLEngine(engine)))
    assert said.value.code == "job_forgotten"


async def test_the_breaker_opens_after_five_failures_of_two_runs_and_then_nothing_is_sent(server, engine):
    server.scripts = [says(503)]
    with in_hand(a_step("train")), pytest.raises(TryAgain, match="503"):
        await order(engine)  # four tries
    with in_hand(a_step("train")):
        with pytest.raises(TryAgain) as said:
            await order(engine)  # the fifth opens it
        assert (said.value.code, said.value.free, said.value.waiting_for) == ("ml_engine_down", True, "ml_engine")
        with pytest.raises(TryAgain):
            await order(engine)
    assert len(server.requests) == 5


async def test_the_breaker_opens_after_five_calls_of_one_run_that_got_no_answer(server, engine, step):
    server.scripts = [resets]
    with pytest.raises(TryAgain, match="broke"):
        await order(engine)
    with pytest.raises(TryAgain) as said:
        await order(engine)
    assert (said.value.code, said.value.free) == ("ml_engine_down", True)


async def test_an_error_that_one_run_alone_gets_costs_its_attempts_until_the_stage_ends(server, engine):
    server.scripts = [says(500)]
    leased = Leased(
        uuid4(), "acme", "training", "train", StepState.RUNNING, 1, 1, 0, 1, RunState.RUNNING, {}, "training.validated", uuid4(), None, None, None,
        None, None,
    )  # fmt: skip
    ends = []
    for attempt in range(1, 5):
        with in_hand(a_step("train", run_id=leased.run_id, attempt=attempt)), pytest.raises(TryAgain) as said:
            await order(engine)
        item = outcome.try_again(replace(leased, attempt=attempt), train, Retry(), said.value, datetime.now(UTC))
        ends.append((item["outcome"], item.get("cost"), item["code"]))
    assert ends == [("retry", 1, "ml_engine_error")] * 3 + [("failed", None, "ml_engine_error")]
