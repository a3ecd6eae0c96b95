"""Brings what incidents have to tell to the monitoring service: the transitions in the ledger are its outbox.

Each is sent under the key alert:{incident}:{number} until monitoring has it; while monitoring is away each is said in the log at once,
a single time, and delivered later. Any number of workers may run this: a row is in one pair of hands.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from streams.clients.answers import Unfit
from streams.clients.monitoring import Monitoring
from streams.ledger.connection import Connection, is_conflict, is_outage
from streams.ledger.ledger import Clocklike
from streams.stage import GiveUp, TryAgain

log = structlog.get_logger(__name__)

AT_ONCE = 20
"""Alerts a round, and so at most so many each `PAUSE`: a storm of incidents does not become a storm at the monitor."""
PAUSE = 1.0
LONGEST = timedelta(minutes=1)
TIDY_EVERY = 3600.0
LOCK_TIMEOUT = "2s"
_MONTHS = "select quality_month($1), quality_month($1 + interval '1 month')"
_FORGET = "select quality_forget($1)"
_DUE = """
select t.* from incident_transitions t
where t.delivered_at is null and t.due_at <= $1
  and not exists (select 1 from incident_transitions e where e.incident_id = t.incident_id and e.number < t.number
                  and e.delivered_at is null and e.due_at < 'infinity')
order by t.at, t.incident_id limit $2 for update of t skip locked
"""
_DELIVERED = "update incident_transitions set delivered_at = $3, attempts = attempts + 1, code = null where incident_id = $1 and number = $2"
_LATER = "update incident_transitions set attempts = attempts + 1, due_at = $3, code = $4, logged_at = $5 where incident_id = $1 and number = $2"


class Alerts:
    """The loop that delivers, over a connection of its own."""

    def __init__(self, connection: Connection, monitoring: Monitoring, clock: Clocklike, *, kept: timedelta) -> None:
        self._connection, self._monitoring, self._clock, self._kept = connection, monitoring, clock, kept
        self._tidied = -TIDY_EVERY

    async def run(self) -> None:
        """Deliver until cancelled; an outage of the ledger is waited out."""
        while True:
            await self._try(self._tidy, "old verdicts could not be tidied up; trying again in an hour")
            await self._try(self.deliver, "alerts could not be delivered; trying again")
            await asyncio.sleep(PAUSE)

    async def _try(self, what: Callable[[], Awaitable[Any]], sentence: str) -> None:
        try:
            await what()
        except Exception as error:
            if not (is_outage(error) or is_conflict(error)):
                log.exception(sentence)
            await self._connection.drop()

    async def deliver(self) -> int:
        """One round; how many alerts monitoring has now that it had not before."""
        async with self._connection.transaction() as raw:
            delivered = 0
            for row in await raw.fetch(_DUE, self._clock.now(), AT_ONCE):
                delivered += await self._send(raw, dict(row))
            return delivered

    async def _send(self, raw: Any, row: dict[str, Any]) -> bool:
        now = self._clock.now()
        try:
            await self._monitoring.raise_alert(
                incident=row["incident_id"],
                transition=str(row["number"]),
                severity=row["severity"],
                title=row["title"],
                message=row["message"],
                tenant_id=row["tenant_id"],
                details=row["details"] | {"incident": str(row["incident_id"]), "kind": row["kind"]},
            )
        except Unfit as why:
            _say(row, why.code, why.sentence, now)
            await raw.execute(_LATER, row["incident_id"], row["number"], _never(), why.code, now)
            return False
        except (TryAgain, GiveUp) as why:  # access rules, an address, a proxy on the way: somebody mends it, and the alert is still wanted
            logged = row["logged_at"] or _say(row, why.code, why.sentence, now)
            await raw.execute(_LATER, row["incident_id"], row["number"], now + _wait(why, row["attempts"]), why.code, logged)
            return False
        await raw.execute(_DELIVERED, row["incident_id"], row["number"], now)
        return True

    async def _tidy(self) -> None:
        """Each hour: the partition of next month, and what is too old goes. Alerts do not wait for whoever has the tables locked."""
        mark = asyncio.get_running_loop().time()
        if mark - self._tidied < TIDY_EVERY:
            return
        self._tidied = mark
        now = self._clock.now()
        for sql, moment in ((_MONTHS, now), (_FORGET, now - self._kept)):
            async with self._connection.transaction() as raw:
                await raw.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                await raw.fetchrow(sql, moment)


def _say(row: dict[str, Any], code: str, reason: str, now: datetime) -> datetime:
    """The alert as a log line, for whoever reads logs while monitoring is away."""
    log.error(
        "alert, not delivered yet",
        code=code,
        reason=reason,
        kind=row["kind"],
        severity=row["severity"],
        title=row["title"],
        tenant=row["tenant_id"],
        incident=str(row["incident_id"]),
    )
    return now


def _wait(why: TryAgain | GiveUp, attempts: int) -> timedelta:
    """How long until the next try: longer each time, and the longest at once when it takes somebody to mend it."""
    if isinstance(why, GiveUp):
        return LONGEST
    return min(why.after or timedelta(seconds=2 ** min(attempts, 6)), LONGEST)


def _never() -> datetime:
    return datetime.max  # noqa: DTZ901  # asyncpg's infinity
