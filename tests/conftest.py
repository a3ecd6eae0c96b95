"""Fixtures for every kind of test: one set of real servers a session, a fresh ledger a test."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_socket
from hypothesis import is_hypothesis_test

from streams.ledger.migrate import migrate
from tests.databases import drop_database
from tests.stack import running_servers

ROOT = Path(__file__).parent
_OFFLINE = (ROOT / "unit",)
_TEMPLATE = "ledger_template"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests get no network and few seconds; the rest says itself what it needs."""
    for item in items:
        if any(folder in item.path.parents for folder in _OFFLINE):
            if item.get_closest_marker("timeout") is None:
                hundreds_of_examples = is_hypothesis_test(getattr(item, "function", None))
                item.add_marker(pytest.mark.timeout(120 if hundreds_of_examples else 20))
            if item.get_closest_marker("enable_socket") is None:
                item.add_marker(pytest.mark.disable_socket_here)


@pytest.fixture(autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sockets are off where a test has no business with them; Unix sockets stay, event loops need them."""
    if request.node.get_closest_marker("disable_socket_here"):
        pytest_socket.disable_socket(allow_unix_socket=True)
        yield
        pytest_socket.enable_socket()
    else:
        yield


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Addresses of Kafka, PostgreSQL, Valkey, S3 and the three neighbours (shape of stack.json)."""
    with running_servers(tmp_path_factory.mktemp("stack", numbered=True) / "home", neighbours=True) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def ledger_template(platform: dict[str, Any]) -> str:
    """The DSN of a server that has a migrated ledger to copy."""
    import psycopg

    dsn: str = platform["postgres"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {_TEMPLATE}")
    migrate(_database(dsn, _TEMPLATE))
    return dsn


@pytest.fixture
async def ledger_dsn(ledger_template: str) -> AsyncIterator[str]:
    """A fresh ledger of this test's own."""
    name = f"test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(ledger_template)
    try:
        await connection.execute(f"create database {name} template {_TEMPLATE}")
        yield _database(ledger_template, name)
        await drop_database(connection, name)
    finally:
        await connection.close()


def _database(dsn: str, name: str) -> str:
    return dsn.rsplit("/", 1)[0] + "/" + name


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see no settings but their own."""
    for key in os.environ:
        if key.startswith("TIDEMILL_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path_factory.getbasetemp() / "no-stack"))
