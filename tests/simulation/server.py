"""One throw-away PostgreSQL for simulations and interleavings: the binaries of the wheel, no fsync, a ledger per database."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from streams.ledger.migrate import migrate
from streams.local.home import Home, Secrets
from streams.local.ports import Port, take
from streams.local.postgres import LocalPostgres
from tests.databases import drop_database

_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "io_method": "sync",  # no helper processes: two cores are all there is
    "jit": "off",
    "autovacuum": "off",
}
TEMPLATE = "tidemill"
_CLOCK = """
create schema if not exists sim;
create table if not exists sim.clock (now timestamptz not null);
insert into sim.clock select pg_catalog.clock_timestamp() where not exists (select 1 from sim.clock);
create or replace function sim.clock_timestamp() returns timestamptz language sql volatile as 'select now from sim.clock';
alter role tidemill set search_path = public, sim, pg_catalog
"""
"""The server's clock is a row: found before pg_catalog's function, so leases and ages run on the simulation's time."""


class FastPostgres(LocalPostgres):
    """Forgets everything in a power cut, which a simulation does not mind."""

    def argv(self) -> list[str]:
        return [*super().argv(), *(word for key, value in _FAST.items() for word in ("-c", f"{key}={value}"))]


class Server:
    """A running server with the ledger's schema in its template database."""

    def __init__(self, postgres: FastPostgres) -> None:
        self._postgres = postgres

    def dsn(self, database: str) -> str:
        return self._postgres.dsn(database)

    def ledger(self, name: str) -> str:
        """The DSN of a fresh ledger of this name."""
        asyncio.run(self._copy(name))
        return self.dsn(name)

    async def _copy(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn("warehouse"))
        try:
            await drop_database(connection, name)
            await connection.execute(f'create database "{name}" template "{TEMPLATE}"')
        finally:
            await connection.close()


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that is gone, data and all, at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-simulation-"))
    folder.chmod(0o711)  # PostgreSQL gives up root and must pass through
    home = Home(folder, lambda line: None)
    home.logs.mkdir()
    ports, guard = take({})
    postgres = FastPostgres(home, ports[Port.POSTGRES], Secrets())
    process: subprocess.Popen[bytes] | None = None
    try:
        asyncio.run(postgres.prepare())
        (home.folder("postgres") / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")  # a password costs more than a connection
        with postgres.log_file.open("ab") as log:
            process = subprocess.Popen(postgres.life().command(postgres.argv()), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        asyncio.run(_ready(postgres, process))
        asyncio.run(_provide_clock(postgres.dsn(TEMPLATE)))
        migrate(postgres.dsn(TEMPLATE))
        yield Server(postgres)
    except BaseException:
        sys.stderr.write(postgres.log_file.read_text()[-2000:] if postgres.log_file.exists() else "")
        raise
    finally:
        if process is not None:
            process.send_signal(postgres.stop_signal)
            process.wait(timeout=30)
        guard.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _provide_clock(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_CLOCK)
    finally:
        await connection.close()


async def _ready(postgres: FastPostgres, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(60):
        ready = asyncio.ensure_future(postgres.until_ready())
        while not ready.done():
            if process.poll() is not None:
                ready.cancel()
                raise RuntimeError(f"PostgreSQL ended with {process.returncode}")
            await asyncio.wait({ready}, timeout=0.1)
        ready.result()
