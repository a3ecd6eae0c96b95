"""One server for all seeds, without Kafka, S3 and the rest of the stack."""

from collections.abc import Iterator

import pytest

from tests.simulation.server import Server, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """PostgreSQL without fsync; each process that runs seeds takes a ledger of its own."""
    with running_server() as server:
        yield server
