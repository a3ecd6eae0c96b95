"""The transport below the neighbours' client, on both event loops: what it makes of answers, and that it lets no connection go astray."""

import asyncio
import contextlib
import datetime
import functools
import inspect
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from streams.clients import wire as module
from streams.clients.answers import Unanswered
from streams.clients.connection import TooLong
from streams.clients.http import open_neighbour
from streams.clients.wire import MOST_OPEN, Wire
from streams.settings import MLEngineSettings
from streams.step import LeaseLost
from tests.fakes import a_step, in_hand
from tests.unit.test_http_client import Order, Started
from tests.unit.wire_peer import Peer, Script, drips, for_ever, hangs, hangs_up, resets, sends

pytestmark = [pytest.mark.enable_socket, pytest.mark.looptime(False), pytest.mark.timeout(20)]

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"job_id":"j1"}'


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on uvloop, which workers use."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def both(*, run: Callable[[Coroutine[Any, Any, None]], None], **fixtures: Any) -> None:
        run(test(**fixtures))

    wanted = inspect.signature(test)
    mine = inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY)
    both.__signature__ = wanted.replace(parameters=[*wanted.parameters.values(), mine])  # type: ignore[attr-defined]
    return both


async def ask(wire: Wire, peer: Peer, resend: Callable[[], object] | None = None) -> httpx.Response:
    extensions = {"resend": resend} if resend else {}
    response = await wire.handle_async_request(httpx.Request("GET", peer.url + "/x", extensions=extensions))
    await response.aread()
    return response


@contextlib.asynccontextmanager
async def between(*scripts: Script | bytes) -> AsyncIterator[tuple[Wire, Peer]]:
    async with Peer(*scripts).serving() as peer, Wire(largest=100_000) as wire:
        yield wire, peer


@on_both_loops
async def test_a_thousand_calls_one_after_the_other_need_one_connection():
    async with between(OK) as (wire, peer):
        for _ in range(1000):
            assert (await ask(wire, peer)).content == b'{"job_id":"j1"}'
        assert peer.connections == 1


@on_both_loops
async def test_two_hundred_calls_at_once_stay_within_the_bound_and_then_all_connections_go(monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    async with between(sends(OK)) as (wire, peer):
        answers = await asyncio.gather(*(ask(wire, peer) for _ in range(200)))
        assert all(answer.status_code == 200 for answer in answers)
        assert peer.most <= MOST_OPEN
        await asyncio.wait_for(peer.until_open(0), 15)


@on_both_loops
async def test_closing_leaves_no_connection_open_whatever_is_under_way():
    async with Peer(OK, hangs).serving() as peer:
        async with Wire(largest=100) as wire:
            await ask(wire, peer)
            asking = asyncio.create_task(ask(wire, peer))
            await asyncio.sleep(0.05)
        with pytest.raises(httpx.ReadError):
            await asking
        await asyncio.wait_for(peer.until_open(0), 15)


@on_both_loops
async def test_a_connection_that_rested_too_long_is_closed(monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    async with between(OK) as (wire, peer):
        await ask(wire, peer)
        assert peer.open == 1
        await asyncio.wait_for(peer.until_open(0), 15)
        assert (await ask(wire, peer)).status_code == 200


@pytest.mark.parametrize("gone", [hangs_up, resets])
@on_both_loops
async def test_a_connection_that_was_closed_while_it_rested_is_replaced_once(gone):
    async with between(OK, gone, OK) as (wire, peer):
        await ask(wire, peer)
        assert (await ask(wire, peer, resend=lambda: None)).status_code == 200
        assert (len(peer.requests), peer.connections) == (3, 2)


@on_both_loops
async def test_it_is_replaced_no_second_time():
    async with between(OK, hangs_up) as (wire, peer):
        await ask(wire, peer)
        with pytest.raises(httpx.ReadError):
            await ask(wire, peer, resend=lambda: None)
        assert len(peer.requests) == 3


@on_both_loops
async def test_what_may_not_be_sent_twice_is_not():
    async with between(OK, hangs_up) as (wire, peer):
        await ask(wire, peer)
        with pytest.raises(httpx.ReadError):
            await ask(wire, peer)
        assert len(peer.requests) == 2


@on_both_loops
async def test_a_new_connection_that_brings_nothing_is_not_replaced():
    async with between(hangs_up) as (wire, peer):
        with pytest.raises(httpx.ReadError):
            await ask(wire, peer, resend=lambda: None)
        assert len(peer.requests) == 1


@on_both_loops
async def test_once_a_byte_of_the_answer_came_nothing_is_sent_again():
    async with between(OK, sends(b"H", then=hangs_up)) as (wire, peer):
        await ask(wire, peer)
        with pytest.raises(httpx.RemoteProtocolError, match="middle"):
            await ask(wire, peer, resend=lambda: None)
        assert len(peer.requests) == 2


@on_both_loops
async def test_the_lease_is_asked_before_a_command_is_sent_again():
    held = iter([True, True, False])
    async with Peer(OK, hangs_up).serving() as peer, open_neighbour("ml_engine", MLEngineSettings(url=peer.url)) as engine:
        with in_hand(a_step("train", lease_held=lambda: next(held))):
            await engine.post("/x", Order(), Started)
            with pytest.raises(LeaseLost):
                await engine.post("/x", Order(), Started)
        assert len(peer.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhel", b"lo\r\n2;x=y\r\n w\r\n", b"0\r\nX-Sum: 1\r\nY: 2\r\n", b"\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 7\r\n\r", b"\nhello", b" w"),
        sends(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhello w"),
        sends(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo w", then=hangs_up),
        sends(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nhello w"),
        sends(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nhello w and rubbish"),
    ],
    ids=["chunks-and-trailers", "pieces", "interim", "until-closed", "http-1.0", "close"],
)
@on_both_loops
async def test_an_answer_is_read_whole_however_it_is_framed(answer):
    async with between(answer) as (wire, peer):
        for _ in range(2):
            response = await ask(wire, peer)
            assert (response.status_code, response.content) == (200, b"hello w")
            assert not {"x-sum", "y", "link"} & set(response.headers)


@pytest.mark.parametrize(
    "answer",
    [
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\nhello", then=hangs_up),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\nhello", then=resets),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", then=hangs_up),
        sends(b"HTTP/1.1 200 OK\r\nContent-Le", then=hangs_up),
        sends(b"HTTP/1.1 200 OK\r\n\r\nhello", then=resets),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
        for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
        for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n" * 100),
    ],
)
@on_both_loops
async def test_a_broken_endless_or_foreign_answer_is_refused_and_its_connection_closed(answer):
    async with between(answer) as (wire, peer):
        with pytest.raises(httpx.RemoteProtocolError) as said:
            await asyncio.wait_for(ask(wire, peer), 10)
        assert Unanswered.by(said.value).kind == "reset"
        await asyncio.wait_for(peer.until_open(0), 15)


@pytest.mark.parametrize(
    "flood",
    [
        for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n"),
        for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b" " * 4096),
        for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 4096),
    ],
)
@on_both_loops
async def test_a_flood_is_cut_while_it_comes(flood):
    async with between(flood) as (wire, peer):
        with pytest.raises(TooLong):
            await asyncio.wait_for(ask(wire, peer), 10)
        await asyncio.wait_for(peer.until_open(0), 15)


@pytest.mark.parametrize("slow", [hangs, drips(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n", b" ")])
@on_both_loops
async def test_a_cancelled_call_closes_its_connection(slow):
    async with between(slow) as (wire, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(wire, peer), 0.2)
        peer.scripts = (OK,)
        assert (await ask(wire, peer)).status_code == 200
        assert peer.connections == 2


@on_both_loops
async def test_a_second_answer_that_nobody_asked_for_answers_nothing():
    async with between(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nX", sends(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nX"), OK) as (
        wire,
        peer,
    ):
        for _ in range(3):
            assert (await ask(wire, peer)).content == b'{"job_id":"j1"}'
            await asyncio.sleep(0.05)
        assert peer.connections == 3


@on_both_loops
async def test_a_line_break_in_a_header_is_not_sent():
    async with between(OK) as (wire, peer):
        with pytest.raises(httpx.LocalProtocolError):
            await wire.handle_async_request(httpx.Request("GET", peer.url, headers=[(b"a", b"b\r\nc: d")]))
        assert peer.requests == []


@on_both_loops
async def test_userinfo_and_path_of_the_base_url_are_kept_and_odd_paths_quoted():
    async with Peer(OK).serving() as peer:
        url = peer.url.replace("//", "//me:p%40ss@") + "/base/"
        async with open_neighbour("ml_engine", MLEngineSettings(url=url)) as engine:
            await engine.call("GET", "/a b/ü", {200: Started})
            await engine.call("GET", "/plain?x=1", {200: Started})
    assert peer.requests[0].startswith(b"GET /base/a%20b/%C3%BC HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Basic bWU6cEBzcw==\r\n" in peer.requests[0]
    assert peer.requests[1].startswith(b"GET /base/plain?x=1 HTTP/1.1\r\n")


def certificate(folder: Path) -> Path:
    """A self-signed one for 127.0.0.1, with its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - datetime.timedelta(days=1), now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "peer.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@on_both_loops
async def test_a_certificate_of_a_stranger_is_refused_and_one_of_a_trusted_authority_is_not(tmp_path):
    path = certificate(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(path)
    async with Peer(OK).serving(serving) as peer:
        async with Wire(largest=100, tls=httpx.create_ssl_context(trust_env=False)) as wire:
            with pytest.raises(httpx.ConnectError) as said:
                await ask(wire, peer)
        assert Unanswered.by(said.value).kind == "tls"
        async with Wire(largest=100, tls=ssl.create_default_context(cafile=str(path))) as wire:
            for _ in range(2):
                assert (await ask(wire, peer)).status_code == 200
        assert len(peer.requests) == 2


@on_both_loops
async def test_without_a_tls_set_up_nothing_goes_out_to_an_https_address():
    async with between(OK) as (wire, peer):
        peer.url = peer.url.replace("http:", "https:")
        with pytest.raises(httpx.UnsupportedProtocol):
            await ask(wire, peer)
