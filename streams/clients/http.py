"""The one place that does HTTP: every call to a neighbour has a deadline, a size limit, a key, a lease check, quick retries and a breaker."""

import asyncio
import hashlib
import random
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from streams.clients.answers import Problem, Reply, Unanswered, asked_to_wait, in_progress, no_answer, refusal, says_later, says_lies
from streams.clients.breaker import Breaker, Failed
from streams.clients.connection import TooLong
from streams.clients.wire import Wire
from streams.faultpoints import point
from streams.settings import NeighbourSettings
from streams.stage import GiveUp
from streams.step import Effect, Step, current

M = TypeVar("M", bound=BaseModel)

QUICK_PAUSES = (0.1, 0.5, 2.0)
"""Seconds before the second, third and fourth try under the same key; with jitter, and within the one deadline of the call."""
KEPT_REPLY = 16_384
"""A larger reply is noted by its digest alone."""
_IN_TARGET = "/?&=%:@!$'()*+,;~"
"""What a path may hold as it is (RFC 3986), its query included."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    content: bytes
    request: httpx.Request
    key: str | None
    answers: Mapping[int, type[BaseModel]]

    @property
    def command(self) -> str:
        return f"{self.method} {self.path}"

    def pass_point(self, name: str) -> None:
        """A fault point of commands; questions change nothing, so dying around them shows nothing."""
        if self.key is not None:
            point(name)


class Neighbour:
    """One neighbour over HTTP. Stages never see it: the clients beside this file speak the domain."""

    def __init__(self, name: str, settings: NeighbourSettings, transport: httpx.AsyncBaseTransport) -> None:
        self.name, self.breaker = name, Breaker(name)
        self._settings, self._transport, self._letterhead = settings, transport, _Letterhead(settings.url)

    async def post(self, path: str, body: BaseModel, answer: type[M], *, key: str | None = None) -> M:
        """Send a command that any 2xx accepts."""
        reply = await self.call("POST", path, dict.fromkeys((200, 201, 202), answer), body=body, key=key)
        assert isinstance(reply, answer)
        return reply

    async def call(
        self, method: str, path: str, answers: Mapping[int, type[BaseModel]], *, body: BaseModel | None = None, key: str | None = None
    ) -> BaseModel:
        """Send and read the answer; `answers` names the statuses that are answers, and their shapes. All else raises `TryAgain` or `GiveUp`."""
        call = self._letterhead.call(method, path, answers, body, key)
        began, deadline = asyncio.get_running_loop().time(), self._deadline()
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._tries(call, deadline)
        except TimeoutError:
            self.breaker.count_silence()
            late = Unanswered("timeout", f"gave no answer to {call.command} in time")
            raise no_answer(self.name, late, down=self.breaker.silent_since(began)) from None
        self._check(call, reply)
        return self._read(call, reply)

    def refusal(self, status: int, problem: Problem) -> GiveUp:
        """A 4xx as the end of the stage."""
        return refusal(self.name, status, problem)

    def _deadline(self) -> float:
        deadline = asyncio.get_running_loop().time() + self._settings.timeout
        step = current.get()
        return min(deadline, step.deadline) if step else deadline

    async def _tries(self, call: _Call, deadline: float) -> Reply:
        """The first try and the quick ones after it, as long as there is time for another."""
        for pause in (*QUICK_PAUSES, None):
            pause = pause and pause * random.uniform(0.5, 1.5)  # spreads those who ask
            last = pause is None or asyncio.get_running_loop().time() + pause >= deadline
            try:
                reply = await self._once(call)
            except Unanswered as trouble:
                if last:
                    raise no_answer(self.name, trouble, down=self.breaker.open) from trouble
            else:
                if last or not _worth_repeating(call, reply) or asked_to_wait(reply) is not None:
                    return reply
            await asyncio.sleep(pause or 0)
        raise AssertionError("the last try returns or raises")

    async def _once(self, call: _Call) -> Reply:
        """One send. Only here are bytes sent, so only here are lease and breaker asked."""
        if step := current.get():
            step.check_lease()
        try:
            with self.breaker.guard():
                reply = await self._exchange(call)
                if reply.status >= 500 and reply.status not in call.answers:
                    raise _Broken(reply, str(step.run_id) if step else call.command)
        except _Broken as broken:
            return broken.reply
        return reply

    async def _exchange(self, call: _Call) -> Reply:
        sent_at = datetime.now(UTC)
        call.pass_point("command.sending")
        try:
            response = await self._transport.handle_async_request(call.request)
            call.pass_point("command.sent")
            body = await self._body(response)
        except TooLong:
            raise says_lies(self.name, f"answered with more than {self._settings.max_response} bytes") from None
        except httpx.LocalProtocolError:
            raise  # a mistake of ours, not the neighbour's
        except httpx.TransportError as error:
            raise Unanswered.by(error) from error
        reply = Reply(response.status_code, response.headers, body)
        self._note(call, reply, sent_at)
        call.pass_point("command.answered")
        return reply

    async def _body(self, response: httpx.Response) -> bytes:
        """The body, as long as it is plain: no compressed bomb is unpacked."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise says_lies(self.name, "answered compressed, though it was asked not to")
            return b"".join([part async for part in response.stream])
        finally:
            await response.stream.aclose()

    def _note(self, call: _Call, reply: Reply, sent_at: datetime) -> None:
        """Keep what a neighbour finally answered to a command, whatever it was."""
        step = current.get()
        if step is None or call.key is None or _worth_repeating(call, reply):
            return
        kept = _object(reply.body) if len(reply.body) <= KEPT_REPLY else {}
        digests = hashlib.sha256(call.content).digest(), hashlib.sha256(reply.body).digest()
        step.effects.append(Effect(call.key, call.command, reply.status, *digests, kept, sent_at))

    def _check(self, call: _Call, reply: Reply) -> None:
        """Raise what a reply stands for unless its status is one of the answers."""
        if _worth_repeating(call, reply):
            raise says_later(self.name, call.command, reply)
        if reply.status in call.answers:
            return
        if 400 <= reply.status < 500:
            raise refusal(self.name, reply.status, Problem.of(reply.body))
        if 300 <= reply.status < 400:
            raise GiveUp(
                f"{self.name} redirects {call.command}, which is never followed; set TIDEMILL_{self.name.upper()}__URL to where it lives now",
                code=f"{self.name}_redirects",
            )
        raise says_lies(self.name, f"answered {call.command} with the status {reply.status}, which means nothing here")

    def _read(self, call: _Call, reply: Reply) -> BaseModel:
        try:
            return call.answers[reply.status].model_validate_json(reply.body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise says_lies(self.name, f"answered {call.command} with {reply.status}, but {where} is wrong: {first['msg']}"[:300]) from None


class _Broken(Failed):
    """A 5xx: the reply is kept, and the breaker counts it."""

    def __init__(self, reply: Reply, whose: str) -> None:
        super().__init__(reply.status)
        self.reply, self.whose = reply, whose


def _worth_repeating(call: _Call, reply: Reply) -> bool:
    """Whether the same key may be answered otherwise a moment later."""
    return in_progress(reply) or (reply.status not in call.answers and (reply.status >= 500 or reply.status in (408, 429)))


class _Letterhead:
    """What all requests to one neighbour have in common, made once: httpx's merging of URLs and headers costs more than sending them."""

    def __init__(self, url: str) -> None:
        self._url = base = httpx.URL(url)
        self._root = base.raw_path.rstrip(b"/")
        self._headers = [
            (b"host", base.netloc),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"tidemill"),
        ]
        if base.userinfo:
            self._headers.append((b"authorization", b"Basic " + b64encode(f"{base.username}:{base.password}".encode())))

    def call(self, method: str, path: str, answers: Mapping[int, type[BaseModel]], body: BaseModel | None, key: str | None) -> _Call:
        """A call ready to be sent; a command takes the key of the step in hand unless it brings its own."""
        step = current.get()
        headers = self._headers.copy()
        content = body.model_dump_json(by_alias=True, exclude_none=True).encode() if body else b""
        if method == "POST":
            key = key or (step.key if step else None)
            if key is None:
                raise RuntimeError(f"POST {path} needs an idempotency key: call it within a step or name a key")
            headers += ((b"idempotency-key", key.encode("ascii")), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)))
        headers += _trace(step)
        # httpx takes longer to read a URL than the rest of a request together, so the path goes beside it
        extensions = {"target": self._root + quote(path, safe=_IN_TARGET).encode("ascii"), "resend": step.check_lease if step else _nothing}
        request = httpx.Request(method, self._url, headers=headers, stream=httpx.ByteStream(content), extensions=extensions)
        return _Call(method, path, content, request, key, answers)


def _trace(step: Step | None) -> list[tuple[bytes, bytes]]:
    """The trace context, unless a publisher sent something else in its place."""
    parent = step.traceparent if step else None
    return [(b"traceparent", parent.encode("ascii"))] if parent and _TRACEPARENT.fullmatch(parent) else []


def _nothing() -> None:
    """Outside of a step there is no lease to ask."""


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@asynccontextmanager
async def open_neighbour(name: str, settings: NeighbourSettings) -> AsyncIterator[Neighbour]:
    """Connections to one neighbour, made when first needed. Redirects, proxies and compression are off."""
    tls = await asyncio.to_thread(httpx.create_ssl_context) if httpx.URL(settings.url).scheme == "https" else None
    async with Wire(largest=settings.max_response, connect_timeout=min(5.0, settings.timeout), tls=tls) as wire:
        yield Neighbour(name, settings, wire)
