"""SIGKILL in the middle of each stage of the real pipeline: the run succeeds all the same, and no neighbour accepted anything twice."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.workers import Worker
from tests.e2e.house import EFFECTS, House, finished, furnish, in_state, publish, state_of, until

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Kill:
    """Where the worker dies: at a fault point, or by our hand while the ledger shows the step in a state."""

    stage: str
    point: str | None = None
    state: str = "running"
    slow: tuple[str, str] | None = None
    """(neighbour, path) that is made slow so that the step is in hand long enough."""
    hold_store: bool = False
    config: tuple[tuple[str, int], ...] = (("epochs", 3), ("factors", 8))

    @property
    def name(self) -> str:
        return self.point or f"{self.stage}-{self.state}"


KILLS = [
    Kill("accept", "inbox.received"),
    Kill("accept", "inbox.recorded"),
    Kill("validate", hold_store=True),
    Kill("validate", "step.committed"),
    Kill("validate", "outbox.published"),
    Kill("train", "command.sending"),
    Kill("train", "command.sent"),
    Kill("train", "command.answered"),
    Kill("train", slow=("ml_engine", "/api/v1/train")),
    Kill("train", state="waiting", config=(("epochs", 400), ("factors", 64))),
    Kill("index", "index.uploading"),
    Kill("index", "index.uploaded"),
    Kill("index", "index.manifest"),
    Kill("deploy", "deploy.accepted"),
    Kill("deploy", slow=("inference", "/api/v1/deploy")),
    Kill("warm", "cache.warming"),
    Kill("warm", slow=("inference", "/api/v1/cache/warm")),
]
"""What a succeeded run must have asked of its neighbours: stage and path, each once a round."""


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.name)
async def test_a_worker_killed_in_any_stage_loses_and_doubles_nothing(house: House, kill: Kill, tmp_path: Path) -> None:
    tenant = f"kill-{kill.name.replace('.', '-').replace('_', '-')}"
    await furnish(house, tenant, tmp_path)
    worker = Worker(f"worker-{tenant}", house.home, house.environment)
    try:
        await worker.start(kill.point)
        await worker.ready()
        if kill.slow:
            neighbour, path = kill.slow
            fault = {"path": path, "mode": "delay", "seconds": 3, "times": 1, "tenant": tenant}
            (await house.http.post(f"{house.at[neighbour]}/_faults", json=fault)).raise_for_status()
        if kill.hold_store:
            house.store.hold()
        await publish(house, tenant, dict(kill.config))
        if kill.point is None:
            await until(lambda: in_state(house, tenant, kill.stage, kill.state))
            await worker.kill()
        assert await worker.ended() == -9
        house.store.heal()
        await worker.start()
        run = await until(lambda: finished(house, tenant))
    except AssertionError:
        sys.stderr.write(f"{await state_of(house, tenant)}\n{worker.said().decode()[-6000:]}")  # pytest shows it with the failure
        raise
    finally:
        house.store.heal()
        await worker.kill()
    assert run["state"] == "succeeded", (dict(run), worker.said().decode()[-2000:])
    await assert_one_effect_a_stage(house, tenant, str(run["run_id"]))
    assert await house.ledger.fetchval("select count(*) from runs where tenant_id = $1", tenant) == 1


async def test_a_worker_killed_while_it_puts_the_last_good_version_back_leaves_it_live_once(house: House, tmp_path: Path) -> None:
    tenant = "kill-deploy-restoring"
    await furnish(house, tenant, tmp_path)
    worker = Worker(f"worker-{tenant}", house.home, house.environment | {"TIDEMILL_INFERENCE__HEALTH_DEADLINE": "PT4S"})
    try:
        await worker.start("deploy.restoring")
        await worker.ready()
        await publish(house, tenant, {"epochs": 3, "factors": 8})
        good = await until(lambda: finished(house, tenant))
        sick = {"path": f"/api/v1/health/{tenant}/2", "mode": "status", "status": 500, "times": None}
        (await house.http.post(f"{house.at['inference']}/_faults", json=sick)).raise_for_status()
        await publish(house, tenant, {"epochs": 3, "factors": 9})
        assert await worker.ended() == -9
        assert await live_in_ledger(house, tenant) == 1  # of version 3, which is to take its place, nobody knows yet
        await worker.start()
        bad = await until(lambda: finished(house, tenant, after=good["run_id"]))
        served = await until(lambda: live_in_ledger(house, tenant))
    except AssertionError:
        sys.stderr.write(f"{await state_of(house, tenant)}\n{worker.said().decode()[-6000:]}")  # pytest shows it with the failure
        raise
    finally:
        await worker.kill()
    assert (good["state"], bad["state"], bad["code"], served) == ("succeeded", "failed", "unhealthy", 3)
    versions = await house.ledger.fetch("select number, state, index_path, instead_of from versions where tenant_id = $1 order by number", tenant)
    assert [(row["number"], row["state"], row["instead_of"]) for row in versions] == [(1, "retired", None), (2, "rejected", None), (3, "live", 2)]
    assert versions[2]["index_path"] == versions[0]["index_path"] != versions[1]["index_path"]
    (await house.http.get(f"{house.at['inference']}/api/v1/health/{tenant}/3")).raise_for_status()
    journal = (await house.http.get(f"{house.at['inference']}/journal", params={"tenant": tenant})).json()
    assert [row["idempotency_key"] for row in journal].count(f"rollback:{tenant}:3") == 1
    assert len([row for row in journal if row["path"] == EFFECTS["deploy"]]) == 3


async def live_in_ledger(house: House, tenant: str) -> int | None:
    number: int | None = await house.ledger.fetchval("select number from versions where tenant_id = $1 and state = 'live'", tenant)
    return number


async def assert_one_effect_a_stage(house: House, tenant: str, run: str) -> None:
    journal: list[dict[str, Any]] = []
    for neighbour in ("ml_engine", "inference"):
        journal += (await house.http.get(f"{house.at[neighbour]}/journal", params={"tenant": tenant})).json()
    accepted = Counter((":".join(row["idempotency_key"].split(":")[:3]), row["path"]) for row in journal)
    assert accepted == {(f"{run}:{stage}:1", path): 1 for stage, path in EFFECTS.items()}
