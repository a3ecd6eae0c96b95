"""Chaos in small, for every commit: a fixed list of blows on real servers within two minutes. The long version is `scripts/chaos`."""

import copy
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.stage import staged

SEED = 20261123
BLOWS = (("kill9_worker", 6), ("kill9_at_point", 6), ("broker_kill", 1), ("postgres_restart", 1), ("sigstop_worker", 1), ("sigterm_worker", 1))


@pytest.mark.timeout(420)
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "echo"])
async def test_under_blows_nothing_is_lost_and_nothing_doubled(tmp_path: Path, eager: bool) -> None:
    settings = {"TIDEMILL_RUNTIME__EAGER": str(eager).lower()}
    async with staged(tmp_path / "home", seed=SEED, workers=2, tenants=20, rate=3, settings=settings, say=lambda _: None) as rounds:
        for fault, times in BLOWS if eager else BLOWS[:1]:
            row = await rounds.play(fault, times, pause=(0.2, 1.0))
            assert not row.violations, row.violations
            assert row.times == times
        snapshot = await rounds.settled(drained=True)
        assert not check(snapshot)
        assert len(snapshot.runs) > 20
        lost = copy.copy(snapshot)
        lost.tables = {**snapshot.tables, "causes": snapshot.rows("causes")[1:]}
        assert check(lost), "the checker must miss what is missing, on real data too"
