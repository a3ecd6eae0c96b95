"""The typed calls to the ledger: one method a move, the SQL functions of `sql/` behind them."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from streams.clock import Clock
from streams.ledger import handover
from streams.ledger.connection import Connection
from streams.ledger.groupcommit import GroupCommit, Item
from streams.settings import LedgerSettings

_LEASES = """
select leased(s, r) from steps s join runs r using (run_id) where s.worker = $1
and not exists (select 1 from unnest($2::uuid[], $3::text[]) known (run_id, stage) where known.run_id = s.run_id and known.stage = s.stage)
"""
Answer = dict[str, Any]
"""What a move came to: `result` and, depending on it, `code`, `run_id`, `outbox` (rows to publish), `step` (leased to the caller)."""


class _Undone(Exception):
    """Ends a transaction that was only tried."""


class Clocklike(Protocol):
    def now(self) -> datetime: ...


class Ledger:
    """Everything the runtime asks of PostgreSQL, over pinned connections."""

    def __init__(self, settings: LedgerSettings, clock: Clocklike | None = None, *, worker: UUID | None = None) -> None:
        """`worker`: who publishes what the calls put into the outbox; None: a sweep does."""
        self.clock = clock or Clock()
        dsn = settings.dsn.get_secret_value()

        def connection(name: str) -> Connection:
            return Connection(dsn, statement_timeout=settings.statement_timeout, name=f"tidemill-{name}", worker=worker)

        self.calls = connection("calls")
        """For single calls off the hot path."""
        self._connections = [connection(f"lane-{n}") for n in range(settings.connections - 1)]
        self._receiving = GroupCommit(self._connections[:1], self._send_receive)
        self._committing = GroupCommit(self._connections[1:2], self._send_commit)
        self._gathered = GroupCommit(self._connections[2:3], self._send_usual)
        self._handing_over = GroupCommit(self._connections[3:], self._send_usual)
        self._lanes = (self._receiving, self._handing_over, self._gathered, self._committing)

    def start(self) -> None:
        for lane in self._lanes:
            lane.start()

    async def stop(self) -> None:
        for lane in self._lanes:  # in this order: what the hand-over does not take is committed one by one
            await lane.stop()
        for connection in (*self._connections, self.calls):
            await connection.close()

    @property
    def outage(self) -> str | None:
        return next((lane.outage for lane in self._lanes if lane.outage), None)

    async def receive(self, item: Item) -> Answer:
        """Record a request, a completion, a dead letter or just the offsets an item covers (`covers`: {topic, partition, first, next})."""
        return dict(await self._receiving.submit(item))

    async def would_receive(self, item: Item) -> Answer:
        """What `receive` would answer to a request: the same statement, undone."""
        answer: Answer = {}
        with suppress(_Undone):
            async with self.calls.transaction() as raw:
                answer = dict(await raw.fetchval("select receive($1, $2, $3)", [item], [], self.clock.now()))
                raise _Undone
        return answer

    async def hand_over(self, item: Item, *, gathered: bool = False) -> Answer | None:
        """The usual outcome (an event, and another stage or a good end follows), with many others in one statement; None: `commit` it.

        `gathered`: one of a batch stage, in a lane of its own: what it carries may be large, and nobody else is to wait for it.
        """
        lane = self._gathered if gathered else self._handing_over
        answer: Answer | None = await lane.submit(item)
        return answer

    async def commit(self, item: Item) -> Answer:
        """Record the outcome of a step in hand and begin the next one."""
        return dict(await self._committing.submit(item))

    async def claim(
        self,
        worker: UUID,
        room: int,
        limits: dict[str, int],
        *,
        without: Sequence[str] = (),
        only: Sequence[str] | None = None,
        more: int | None = None,
        busy: Collection[str] = (),
    ) -> list[Answer]:
        """Lease up to `room` due steps (and as many of each limit), leaving out some stages, or of some alone.

        `more`: how many of them at most may be of a tenant and pipeline with a step in hand, as the `busy` ones ("tenant pipeline") have already.
        """
        what = worker, room, list(without), None if only is None else list(only), limits, self.clock.now(), more, list(busy)
        rows = await self.calls.fetch("select claim_steps($1, $2, $3, $4, $5, $6, $7, $8)", *what)
        return [row[0] for row in rows]

    async def claim_echo(self, worker: UUID, run_id: UUID, stage: str, event_id: UUID, *, limited: bool) -> list[Answer]:
        """Lease the step that this event feeds, if it still waits for its echo."""
        rows = await self.calls.fetch("select claim_echo($1, $2, $3, $4, $5, $6)", worker, run_id, stage, event_id, limited, self.clock.now())
        return [row[0] for row in rows]

    async def expand(self, key: UUID, after: str, last: str, items: Sequence[Item], *, done: bool) -> list[Answer]:
        """Record one chunk of an expansion; nothing when another worker was there before."""
        rows = await self.calls.fetch("select advance_expansion($1, $2, $3, $4, $5, $6)", key, after, last, done, list(items), self.clock.now())
        return [row[0] for row in rows]

    async def leases(self, worker: UUID, *, known: Collection[tuple[UUID, str]]) -> list[Answer]:
        """The steps that the ledger thinks this worker has in hand, without those it knows of: a thousand with their events take a while to read."""
        rows = await self.calls.fetch(_LEASES, worker, [run for run, _ in known], [stage for _, stage in known])
        return [row[0] for row in rows]

    async def reap(self) -> int:
        """Give the steps of dead workers back; how many."""
        return int(await self.calls.value("select reap($1)", self.clock.now()))

    async def cancel(self, run_id: UUID, *, finish_id: UUID, first: Item, unsettled: Sequence[str], by: str) -> Answer:
        return dict(
            await self.calls.value("select cancel_run($1, $2, $3, $4, $5, $6)", run_id, finish_id, first, list(unsettled), by, self.clock.now())
        )

    async def reopen(self, run_id: UUID, *, stage: str | None, stages: Sequence[str], limit: str | None, by: str) -> Answer:
        return dict(await self.calls.value("select reopen_run($1, $2, $3, $4, $5, $6)", run_id, stage, list(stages), limit, by, self.clock.now()))

    async def known(self, event_ids: Sequence[UUID]) -> set[UUID]:
        """Which of these event ids the runtime itself put on Kafka."""
        rows = await self.calls.fetch(
            "select event_id from journal where event_id = any($1) union select id from dead_letters where id = any($1) "
            "union select (data ->> 'undone')::uuid from journal where kind = 'refilled' and (data ->> 'undone')::uuid = any($1)",
            list(event_ids),
        )
        return {row[0] for row in rows}

    async def _send_receive(self, connection: Connection, items: Sequence[Item]) -> list[Any]:
        moves = [item for item in items if item["kind"] != "offsets"]
        rows = await connection.fetch("select receive($1, $2, $3)", moves, merge_offsets(items), self.clock.now())
        answers = iter(row[0] for row in rows)
        return [{"result": "covered"} if item["kind"] == "offsets" else next(answers) for item in items]

    async def _send_commit(self, connection: Connection, items: Sequence[Item]) -> list[Any]:
        rows = await connection.fetch("select commit_steps($1, $2)", items, self.clock.now())
        return [row[0] for row in rows]

    async def _send_usual(self, connection: Connection, items: Sequence[Item]) -> list[Any]:
        """Many hand-overs in one statement; None for each that it did not take."""
        usual, now = handover.one_a_tenant(items), self.clock.now()
        rows = await connection.fetch(handover.SQL, *handover.columns(usual, now))
        taken = {id(usual[row["n"] - 1]): row for row in rows}
        return [handover.answer(item, taken[id(item)], now) if id(item) in taken else None for item in items]


def merge_offsets(items: Sequence[Item]) -> list[Item]:
    """The offset ranges that a batch covers, touching ranges joined."""
    ranges = sorted((c["topic"], c["partition"], c["first"], c["next"]) for item in items if (c := item.get("covers")))
    merged: list[Item] = []
    for topic, partition, first, past in ranges:
        last = merged[-1] if merged else None
        if last and (last["topic"], last["partition"]) == (topic, partition) and first <= last["next"]:
            last["next"] = max(last["next"], past)
        else:
            merged.append({"topic": topic, "partition": partition, "first": first, "next": past})
    return merged
