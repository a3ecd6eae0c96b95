"""Which calls were accepted: `Idempotency-Key` honoured over restarts, and `GET /journal` to prove it.

A key is reserved before the call is worked on and carries an `effect_id` made from it, from which the handlers make the ids of what they
create. So a crash between doing and recording doubles nothing: the successor takes the reservation over and creates the same thing again.
Kept under a key are answers that stay true (2xx, and 4xx about the call itself), not 5xx, 409 and 429: those did nothing, so asking again is safe.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reference.database import Database
from reference.errors import Refused, answer
from schemas.tenant import is_tenant_id

log = logging.getLogger(__name__)

SCHEMA = """
create table if not exists calls(
    id integer primary key,
    key text unique,          -- null: a call without a key, an effect of its own each time
    fingerprint text not null,
    method text not null,
    path text not null,
    tenant_id text,
    at text not null,
    owner text not null,      -- the process that works on it, or did
    status integer,           -- null while the call is worked on
    content_type blob,
    body blob
);
create index if not exists calls_tenant on calls(tenant_id, id);
"""
_EFFECTS = UUID("6d1f2c0a-55f5-5d0c-9d27-3f0f2a8f6a11")


@dataclass(slots=True)
class Call:
    """One mutating request on its way through."""

    key: str | None
    fingerprint: str
    method: str
    path: str
    tenant_id: str | None
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def effect_id(self) -> str:
        """The id of what this call creates: stable under a key."""
        return str(uuid4() if self.key is None else uuid5(_EFFECTS, f"{self.path}\n{self.key}"))


@dataclass(slots=True)
class Answer:
    """What the service said: gathered whole, as it must be stored before it is sent."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def final(self) -> bool:
        return self.status < 500 and self.status not in (409, 429)

    @property
    def content_type(self) -> bytes:
        return dict(self.headers).get(b"content-type", b"application/json")

    async def gather(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class Journal:
    """The calls of one service, in its database."""

    def __init__(self, database: Database) -> None:
        self._database = database.create(SCHEMA)
        self._owner = uuid4().hex

    async def begin(self, call: Call) -> Answer | None:
        """Reserve the key; the stored answer if the call was done before; refused if it is being done or the body differs."""
        if call.key is None:
            return None
        return await self._database.run(lambda c: self._reserve(c, call))

    def _reserve(self, connection: sqlite3.Connection, call: Call) -> Answer | None:
        row = connection.execute("select * from calls where key = ?", (call.key,)).fetchone()
        if row is None:
            self._insert(connection, call, None)
            return None
        if row["fingerprint"] != call.fingerprint:
            raise Refused(422, "key_reused", f"the Idempotency-Key {call.key} belongs to another call; use a new key for a new call")
        if row["status"] is not None:
            return Answer(row["status"], [(b"content-type", row["content_type"]), (b"idempotency-replayed", b"true")], row["body"])
        if row["owner"] == self._owner:
            raise Refused(409, "in_progress", f"the first call with the Idempotency-Key {call.key} is still being worked on; ask again in a second")
        connection.execute("update calls set owner = ? where id = ?", (self._owner, row["id"]))
        return None

    def _insert(self, connection: sqlite3.Connection, call: Call, done: Answer | None) -> None:
        connection.execute(
            "insert into calls(key, fingerprint, method, path, tenant_id, at, owner, status) values (?,?,?,?,?,?,?,?)",
            (call.key, call.fingerprint, call.method, call.path, call.tenant_id, call.at, self._owner, done and done.status),
        )

    async def end(self, call: Call, done: Answer) -> None:
        """Keep a final answer; let go of the key after any other."""
        work: Callable[[sqlite3.Connection], object]
        if call.key is None:
            if done.status >= 300:
                return
            work = lambda c: self._insert(c, call, done)  # noqa: E731
        elif done.final:
            kept = (done.status, done.content_type, done.body, call.tenant_id, call.key)
            work = lambda c: c.execute("update calls set status = ?, content_type = ?, body = ?, tenant_id = ? where key = ?", kept)  # noqa: E731
        else:
            work = lambda c: c.execute("delete from calls where key = ? and status is null", (call.key,))  # noqa: E731
        await self._database.run(work)

    async def list(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """The accepted calls, oldest first: one row an effect."""
        sql = """select key as idempotency_key, method, path, tenant_id, at, status from calls
            where status < 300 and (?1 is null or tenant_id = ?1) order by id"""
        return await self._database.run(lambda c: [dict(row) for row in c.execute(sql, (tenant,))])


class Idempotency:
    """ASGI: every POST below /api passes the journal."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app, self._journal = app, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        try:
            call = read(scope)
            done = await self._journal.begin(call)
        except Refused as refused:
            await answer(send, refused)
            return
        if done is None:
            done = await self._work(call, scope, receive)
        await done.send(send)

    async def _work(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        done, state = Answer(), scope.setdefault("state", {})
        state.update(effect_id=call.effect_id, idempotency_key=call.key)
        try:
            await self._app(scope, receive, done.gather)
        except Exception:
            log.exception("the call failed", extra={"path": call.path})
            done.status = 500
        call.tenant_id = state.get("tenant_id", call.tenant_id)
        await self._journal.end(call, done)
        return done


def read(scope: Scope) -> Call:
    """What the journal needs to know of a request whose body lies in the scope."""
    key = dict(scope["headers"]).get(b"idempotency-key")
    if key is not None and not (0 < len(key) <= 200 and key.isascii() and key.decode().isprintable()):
        raise Refused(400, "bad_key", "an Idempotency-Key is 1 to 200 printable ASCII characters")
    body, tenant = scope["body"], None
    try:
        data = json.loads(body)
        body = json.dumps(data, sort_keys=True).encode()
        tenant = data.get("tenant_id") if isinstance(data, dict) else None
    except (ValueError, RecursionError):
        pass  # not JSON: FastAPI says so; the raw bytes are the fingerprint
    fingerprint = hashlib.sha256(b"\n".join([scope["method"].encode(), scope["path"].encode(), body])).hexdigest()
    return Call(key.decode() if key else None, fingerprint, scope["method"], scope["path"], tenant if is_tenant_id(tenant) else None)
