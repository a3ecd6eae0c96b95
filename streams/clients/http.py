"""The one place that does HTTP: every call to a neighbour has a deadline, a size limit, a key, a lease check, quick retries and a breaker."""

import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ValidationError

from streams.clients.answers import Problem, Reply, Unanswered, asked_to_wait, in_progress, no_answer, refusal, says_later, says_lies
from streams.clients.breaker import Breaker, Failed
from streams.faultpoints import point
from streams.settings import NeighbourSettings
from streams.stage import GiveUp
from streams.step import Effect, Step, current

M = TypeVar("M", bound=BaseModel)

QUICK_PAUSES = (0.1, 0.5, 2.0)
"""Seconds before the second, third and fourth try under the same key; with jitter, and within the one deadline of the call."""
KEPT_REPLY = 16_384
"""A larger reply is noted by its digest alone."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    content: bytes
    headers: dict[str, str]
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

    def __init__(self, name: str, settings: NeighbourSettings, http: httpx.AsyncClient) -> None:
        self.name, self.breaker = name, Breaker(name)
        self._settings, self._http = settings, http

    async def post(self, path: str, body: BaseModel, answer: type[M], *, key: str | None = None) -> M:
        """Send a command that any 2xx accepts."""
        reply = await self.call("POST", path, dict.fromkeys((200, 201, 202), answer), body=body, key=key)
        assert isinstance(reply, answer)
        return reply

    async def call(
        self, method: str, path: str, answers: Mapping[int, type[BaseModel]], *, body: BaseModel | None = None, key: str | None = None
    ) -> BaseModel:
        """Send and read the answer; `answers` names the statuses that are answers, and their shapes. All else raises `TryAgain` or `GiveUp`."""
        call = _prepare(method, path, answers, body, key)
        deadline = self._deadline()
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._tries(call, deadline)
        except TimeoutError:
            self.breaker.count_failure()
            raise no_answer(self.name, Unanswered("timeout", f"gave no answer to {call.command} in time")) from None
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
                    raise no_answer(self.name, trouble) from trouble
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
                    raise _Broken(reply)
        except _Broken as broken:
            return broken.reply
        return reply

    async def _exchange(self, call: _Call) -> Reply:
        sent_at = datetime.now(UTC)
        call.pass_point("command.sending")
        try:
            async with self._http.stream(call.method, call.path, content=call.content, headers=call.headers) as response:
                call.pass_point("command.sent")
                body = await self._body(response)
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            raise Unanswered.by(error) from error
        reply = Reply(response.status_code, response.headers, body)
        self._note(call, reply, sent_at)
        call.pass_point("command.answered")
        return reply

    async def _body(self, response: httpx.Response) -> bytes:
        """The body, as long as it is plain and within the limit: neither a flood nor a compressed bomb is read."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise says_lies(self.name, "answered compressed, though it was asked not to")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._settings.max_response:
                raise says_lies(self.name, f"answered with more than {self._settings.max_response} bytes")
        return bytes(body)

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

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _worth_repeating(call: _Call, reply: Reply) -> bool:
    """Whether the same key may be answered otherwise a moment later."""
    return in_progress(reply) or (reply.status not in call.answers and (reply.status >= 500 or reply.status in (408, 429)))


def _prepare(method: str, path: str, answers: Mapping[int, type[BaseModel]], body: BaseModel | None, key: str | None) -> _Call:
    step = current.get()
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if method == "POST":
        key = key or (step.key if step else None)
        if key is None:
            raise RuntimeError(f"POST {path} needs an idempotency key: call it within a step or name a key")
        headers |= {"idempotency-key": key, "content-type": "application/json"}
    headers |= _trace(step)
    content = body.model_dump_json(by_alias=True, exclude_none=True).encode() if body else b""
    return _Call(method, path, content, headers, key, answers)


def _trace(step: Step | None) -> dict[str, str]:
    """The trace context, unless a publisher sent something else in its place."""
    parent = step.traceparent if step else None
    return {"traceparent": parent} if parent and _TRACEPARENT.fullmatch(parent) else {}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@asynccontextmanager
async def open_neighbour(name: str, settings: NeighbourSettings) -> AsyncIterator[Neighbour]:
    """Connections to one neighbour, made when first needed. Redirects, proxies and compression are off."""
    limits = httpx.Limits(max_connections=100, keepalive_expiry=15)
    timeout = httpx.Timeout(settings.timeout, connect=min(5.0, settings.timeout))
    async with httpx.AsyncClient(
        base_url=settings.url, transport=AiohttpTransport(limits=limits), timeout=timeout, follow_redirects=False, trust_env=False
    ) as http:
        yield Neighbour(name, settings, http)
