"""Chaos in small, for every commit: one storm of blows on real servers. The long version is `scripts/chaos`."""

import asyncio
import copy
from pathlib import Path

import httpx
import pytest

from streams.local.ports import is_free
from tests.chaos.checker import check
from tests.chaos.stage import staged
from tests.chaos.town import Town

SEED = 20261123
BLOWS = {
    "kill9_worker": 8,
    "kill9_at_point": 4,
    "broker_kill": 1,
    "postgres_restart": 1,
    "sigstop_worker": 1,
    "sigterm_worker": 1,
    "kafka_cut": 1,
    "s3_truncated": 1,
}
ECHO_BLOWS = {"kill9_worker": 4, "kill9_at_point": 1}


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("eager", "blows"), [(True, BLOWS), (False, ECHO_BLOWS)], ids=["eager", "echo"])
async def test_under_blows_nothing_is_lost_and_nothing_doubled(tmp_path: Path, eager: bool, blows: dict[str, int]) -> None:
    pages = next(port for port in range(25_500, 25_900) if is_free(port) and is_free(port + 1))  # slot 1 has the first
    settings = {"TIDEMILL_RUNTIME__EAGER": str(eager).lower(), "TIDEMILL_RUNTIME__PAGES_PORT": str(pages)}
    async with staged(tmp_path / "home", seed=SEED, workers=2, tenants=20, rate=3, settings=settings, say=lambda _: None) as rounds:
        row = await rounds.storm(blows)
        assert not row.violations, "\n".join(row.violations)
        assert row.times == sum(blows.values())
        assert row.runs > 20
        snapshot, _ = await rounds.settled(drained=True)
        lost = copy.copy(snapshot)
        lost.tables = {**snapshot.tables, "causes": snapshot.rows("causes")[1:]}
        assert check(lost), "the checker must miss what is missing, on real data too"
        if eager:
            await who_is_away_is_named(rounds.scene.town, pages)


async def who_is_away_is_named(town: Town, pages: int) -> None:
    """One worker is cut off from PostgreSQL and the other from Kafka: each says so while it lasts, and is ready again by itself."""
    one, two = town.doors[0]["postgres"], town.doors[1]["kafka"]
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        await seen(http, pages, [set(), set()])
        one.hold()
        two.hold()
        await seen(http, pages, [{"ledger"}, {"kafka"}])
        town.heal()
        await seen(http, pages, [set(), set()])


async def seen(http: httpx.AsyncClient, pages: int, missing: list[set[str]]) -> None:
    """Return once the workers call just these missing."""
    async with asyncio.timeout(60):
        while sorted(map(sorted, missing)) != sorted([await missed(http, pages + n) for n in range(2)]):  # noqa: ASYNC110  # it is asked
            await asyncio.sleep(0.3)


async def missed(http: httpx.AsyncClient, port: int) -> list[str]:
    answer = await http.get(f"http://127.0.0.1:{port}/readyz")
    return sorted(answer.json().keys() & {"ledger", "kafka", "starting"})
