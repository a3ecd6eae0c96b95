"""Misbehaviour on demand: `POST /_faults` makes a neighbour fail, hang or lie for the next calls that match.

Faults stand in front of the journal, so a call that is failed here was never accepted, and one whose reply is dropped or bent was.
"""

import asyncio
import json
import socket
import struct
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from starlette.types import ASGIApp, Receive, Scope, Send

from reference.errors import Refused, answer
from reference.journal import Answer
from schemas.tenant import TenantId

Mode = Literal["status", "hang", "reset", "html", "drop_reply", "drip", "delay", "wrong_job_id", "backward_status", "forget_job"]
_EARLIER = {"completed": "running", "failed": "running", "cancelled": "running", "running": "pending"}


class Cut(ConnectionResetError):
    """The connection is cut where there is no socket to cut (in-process calls)."""


class Fault(BaseModel):
    """What goes wrong, where, and how often."""

    model_config = ConfigDict(extra="forbid")

    path: str = "/api/"
    """Prefix of the paths concerned."""
    mode: Mode
    method: Literal["GET", "POST"] | None = None
    status: Annotated[int, Field(ge=400, le=599)] = 503
    """For `status`: what is answered instead of working."""
    retry_after: Annotated[int, Field(ge=0)] | None = None
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    """For `delay`: before the work; for `drip`: between two bytes of the answer."""
    times: PositiveInt | None = 1
    """How many calls; null: all, until the faults are deleted."""
    tenant: TenantId | None = None

    def concerns(self, scope: Scope) -> bool:
        return (
            scope["path"].startswith(self.path) and self.method in (None, scope["method"]) and (self.tenant is None or self.tenant in _tenants(scope))
        )


def _tenants(scope: Scope) -> set[str]:
    """The tenants a request may be about: what its path and its body say."""
    named = set(scope["path"].split("/"))
    try:
        body = json.loads(scope["body"])
    except (ValueError, RecursionError):
        return named
    return named | ({str(body.get("tenant_id"))} if isinstance(body, dict) else set())


class Faults:
    """ASGI: lets calls pass, unless a fault concerns them."""

    def __init__(self, app: ASGIApp, *, allowed: bool) -> None:
        self._app, self._allowed = app, allowed
        self._active: list[Fault] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._take(scope) if self._active and scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await self._misbehave(fault, scope, receive, send)

    def _take(self, scope: Scope) -> Fault | None:
        if scope["path"] == "/_faults":
            return None
        for fault in self._active:
            if fault.concerns(scope):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._active.remove(fault)
                return fault
        return None

    async def _misbehave(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.mode:
            case "status":
                await _refuse(fault, send)
            case "forget_job":
                await answer(send, Refused(404, "unknown_job", "no such job (fault)"))
            case "html":
                await Answer(200, [(b"content-type", b"text/html")], b"<html><body>Welcome to nginx!</body></html>").send(send)
            case "hang":
                await _until_gone(receive)
            case "reset":
                await _cut(scope, receive)
            case "delay":
                await asyncio.sleep(fault.seconds)
                await self._app(scope, receive, send)
            case _:
                done = Answer()
                await self._app(scope, receive, done.gather)
                await _deliver(fault, done, scope, receive, send)

    def routes(self) -> APIRouter:
        """`/_faults`, closed unless the service was started with REFERENCE_ALLOW_FAULTS=1."""
        router = APIRouter()

        def check() -> None:
            if not self._allowed:
                raise Refused(403, "faults_off", "start the service with REFERENCE_ALLOW_FAULTS=1 to make it misbehave")

        @router.post("/_faults")
        async def add(fault: Fault) -> Fault:
            check()
            self._active.append(fault)
            return fault

        @router.get("/_faults")
        async def show() -> list[Fault]:
            check()
            return self._active

        @router.delete("/_faults")
        async def clear() -> dict[str, int]:
            check()
            gone = len(self._active)
            self._active.clear()
            return {"deleted": gone}

        return router


async def _deliver(fault: Fault, done: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """The work is done; spoil the answer."""
    if fault.mode == "drop_reply":
        await _cut(scope, receive)
    elif fault.mode == "drip":
        await _drip(done, fault.seconds, send)
    else:
        _bend(done, fault.mode)
        await done.send(send)


async def _refuse(fault: Fault, send: Send) -> None:
    body = json.dumps({"code": "fault", "message": f"told to answer {fault.status}"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after is not None:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    await Answer(fault.status, headers, body).send(send)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cut(scope: Scope, receive: Receive) -> None:
    """Reset the connection: with a linger of zero the peer sees RST instead of an orderly end."""
    transport = getattr(getattr(scope["receive"], "__self__", None), "transport", None)
    if transport is None:
        raise Cut("the connection was cut (fault)")
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _until_gone(receive)


async def _drip(done: Answer, seconds: float, send: Send) -> None:
    await send({"type": "http.response.start", "status": done.status, "headers": done.headers})
    for at in range(len(done.body)):
        await send({"type": "http.response.body", "body": done.body[at : at + 1], "more_body": True})
        await asyncio.sleep(seconds)
    await send({"type": "http.response.body", "body": b""})


def _bend(done: Answer, mode: Mode) -> None:
    """Tell a lie in the JSON: another job's id, or a status the job has left behind."""
    try:
        body = json.loads(done.body)
    except ValueError:
        return
    if mode == "wrong_job_id" and "job_id" in body:
        body["job_id"] = str(uuid4())
    elif mode == "backward_status" and "status" in body:
        body["status"] = _EARLIER.get(body["status"], body["status"])
    done.body = json.dumps(body).encode()
    done.headers = [pair for pair in done.headers if pair[0] != b"content-length"]
    done.headers.append((b"content-length", str(len(done.body)).encode()))
