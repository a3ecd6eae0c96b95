"""The simulation is worth what it catches: each way to lose or double work, built in on purpose, must be named within a few seeds."""

import pytest

from tests.simulation.harness import storm
from tests.simulation.mutants import MUTANTS
from tests.simulation.server import Server

SEEDS = range(1, 61)

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(400)]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_runtime_is_caught(server: Server, name: str) -> None:
    wanted = tuple(f"{invariant}:" for invariant in MUTANTS[name].invariants.split())
    result = storm(server, list(SEEDS), seconds=150, mutant=name, stop_at=wanted)
    said = [violation for report in result.bad for violation in report.violations]
    assert any(violation.startswith(wanted) for violation in said), f"the mutant {name} was not caught by {result}; what was said: {said[:5]}"
