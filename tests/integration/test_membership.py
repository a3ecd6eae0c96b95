"""A worker's slot over an outage: the server may hold it for the connection that broke, and that is no other worker."""

import asyncio

import asyncpg

from streams.clock import Clock
from streams.membership import _SLOT_LOCKS, Membership
from streams.settings import Settings

_ITS_CONNECTION = "select pid from pg_stat_activity where application_name = 'tidemill-membership' and datname = current_database()"


async def test_a_worker_waits_until_the_server_has_noticed_the_end_of_its_last_connection(ledger_dsn: str) -> None:
    lost: list[str] = []
    membership = Membership(Settings.model_validate({"ledger": {"dsn": ledger_dsn}, "runtime": {"heartbeat": 0.5}}), Clock())
    membership.on_lost = lost.append
    await asyncio.to_thread(membership.start)
    raw = await asyncpg.connect(ledger_dsn)
    pid = await raw.fetchval(_ITS_CONNECTION)
    await raw.execute(f"select pg_terminate_backend({pid}), pg_advisory_lock({_SLOT_LOCKS}, {membership.slot})")
    await asyncio.sleep(2)
    assert await raw.fetchval(_ITS_CONNECTION) is None or membership.outage
    await raw.execute("select pg_advisory_unlock_all()")
    async with asyncio.timeout(20):
        while membership.outage or not membership.held(membership.epoch):  # noqa: ASYNC110  # another thread's doing
            await asyncio.sleep(0.05)
    await asyncio.to_thread(membership.stop)
    await raw.close()
    assert lost == []
