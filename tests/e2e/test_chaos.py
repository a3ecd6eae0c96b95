"""Chaos in small, for every commit: one storm of blows on real servers. The long version is `scripts/chaos`."""

import copy
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.stage import staged

SEED = 20261123
BLOWS = {"kill9_worker": 8, "kill9_at_point": 4, "broker_kill": 1, "postgres_restart": 1, "sigstop_worker": 1, "sigterm_worker": 1}
ECHO_BLOWS = {"kill9_worker": 4, "kill9_at_point": 1}


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("eager", "blows"), [(True, BLOWS), (False, ECHO_BLOWS)], ids=["eager", "echo"])
async def test_under_blows_nothing_is_lost_and_nothing_doubled(tmp_path: Path, eager: bool, blows: dict[str, int]) -> None:
    settings = {"TIDEMILL_RUNTIME__EAGER": str(eager).lower()}
    async with staged(tmp_path / "home", seed=SEED, workers=2, tenants=20, rate=3, settings=settings, say=lambda _: None) as rounds:
        row = await rounds.storm(blows)
        assert not row.violations, "\n".join(row.violations)
        assert row.times == sum(blows.values())
        assert row.runs > 20
        snapshot, _ = await rounds.settled(drained=True)
        lost = copy.copy(snapshot)
        lost.tables = {**snapshot.tables, "causes": snapshot.rows("causes")[1:]}
        assert check(lost), "the checker must miss what is missing, on real data too"
