"""Fourth stage of training: the index goes live as the tenant's next version, and stays only if it proves healthy."""

import asyncio
from datetime import timedelta
from typing import Any

from agents.artefacts import check_engine_index
from schemas.states import RunState
from schemas.training import IndexBuilt, ModelDeployed
from streams.clients.inference import Conflict, Health, taken
from streams.clients.paths import own_path
from streams.clients.versions import Version
from streams.faultpoints import point
from streams.services import Services
from streams.stage import GiveUp, TryAgain, stage
from streams.step import Step, current

FIRST_PROBE, SLOWEST_PROBE = 0.05, 5.0
"""Seconds between two probes: the first, and what the wait doubles up to."""


@stage(timeout=timedelta(minutes=30), when_cancelled="settle")
async def deploy(event: IndexBuilt, use: Services) -> ModelDeployed:
    """Make the index the tenant's live version, or leave the last good one there. Begun again after a crash, it goes on with the same number."""
    step = current.get()
    assert step is not None, "the executor sets the step in hand"
    model_path, index_path = _paths(event)
    if event.job_id is not None:  # built by somebody else: believed only as far as its manifest goes
        await check_engine_index(event, index_path, use)
    before = await use.versions.live(event.tenant_id)
    mine = await use.versions.reserve(event.tenant_id, step.run_id, step.round, model_path=model_path, index_path=index_path)
    if mine.state == "rejected":
        if before is not None and before.run_id is not None:  # another run's, and not one that was put back in place of ours
            await _refuse_if_older(mine, before.number, use)
        raise await _put_back(mine, use, "it was found unhealthy before this worker took over")
    if step.cancelling and await use.inference.health(mine.tenant_id, mine.number) is Health.UNKNOWN:
        await use.versions.reject(mine.tenant_id, mine.number, "the run was cancelled before the version was live")
        raise GiveUp(f"version {mine.number} of {mine.tenant_id} was not live yet when the run was cancelled", code="cancelled")
    await _go_live(mine, step, event, use)
    point("deploy.accepted")
    if trouble := await _unhealthy(mine, use):
        await use.versions.reject(mine.tenant_id, mine.number, trouble)
        raise await _put_back(mine, use, trouble)
    await use.versions.mark_live(mine.tenant_id, mine.number)
    previous = before.number if before and before.number != mine.number else None
    return event.then(ModelDeployed, version=mine.number, previous_version=previous)


def _paths(event: IndexBuilt) -> tuple[str, str]:
    if event.model_path is None:
        raise GiveUp(
            f"the index at {event.index_path} does not say of which model it is; the service that built it must send model_path", code="no_model_path"
        )
    return own_path(event.model_path, event.tenant_id, root="models"), own_path(event.index_path, event.tenant_id, root="indices")


async def _go_live(mine: Version, step: Step, event: IndexBuilt, use: Services) -> None:
    """Compare-and-set of the live version. What the service says is live counts, unless that is newer than ours.

    That it says our number proves nothing: a ledger that was lost gives numbers again, so it is asked whether it has our files under it.
    """
    live = await use.versions.live(mine.tenant_id)
    if live is not None and live.number == mine.number:
        return
    expected, key = live.number if live else 0, step.key
    config = {"kind": event.kind, "nprobe": event.nprobe}
    for _ in range(4):
        await _refuse_if_older(mine, expected, use)
        conflict = await _send(mine, expected, config, key, use)
        if conflict is None:
            return
        if conflict.live is None and await use.inference.health(mine.tenant_id, mine.number) is not Health.UNKNOWN:
            return  # an earlier attempt was accepted, when another version was expected
        if conflict.live == expected == mine.number:
            other = taken(mine.tenant_id, mine.number)
            await use.versions.reject(mine.tenant_id, mine.number, other.sentence)
            raise other
        expected = expected if conflict.live is None else conflict.live
        key = f"{step.key}:on-{expected}"  # another body needs another key; at most one of them can be accepted
    raise TryAgain(f"the live version of {mine.tenant_id} kept changing while {mine.number} was to be deployed", code="version_conflict")


async def _send(mine: Version, expected: int, config: dict[str, Any], key: str, use: Services) -> Conflict | None:
    try:
        return await use.inference.deploy(
            tenant_id=mine.tenant_id,
            version=mine.number,
            model_path=mine.model_path,
            index_path=mine.index_path,
            expected_version=expected,
            config=config,
            key=key,
        )
    except GiveUp as refused:
        await use.versions.reject(mine.tenant_id, mine.number, refused.sentence)
        raise


async def _refuse_if_older(mine: Version, live: int, use: Services) -> None:
    if live <= mine.number:
        return
    reason = f"version {live} of {mine.tenant_id} went live before version {mine.number} of this run; nothing is to be done"
    await use.versions.reject(mine.tenant_id, mine.number, reason)
    raise GiveUp(reason, code="newer_version_live", outcome=RunState.SUPERSEDED)


async def _unhealthy(version: Version, use: Services) -> str | None:
    """Probe until the version is healthy (None) or the deadline is over (what was wrong with it last).

    A service that was down all the time says nothing about the version.
    """
    loop, wait = asyncio.get_running_loop(), FIRST_PROBE
    deadline = loop.time() + use.settings.inference.health_deadline.total_seconds()
    outage: TryAgain | None = None
    wrong: str | None = None
    while True:
        try:
            health = await use.inference.health(version.tenant_id, version.number)
        except TryAgain as trouble:
            if trouble.free:
                outage = trouble
            else:
                wrong = trouble.sentence
        else:
            wrong = f"the inference service calls it {health.value}"
            if health is Health.HEALTHY:
                return None
        if loop.time() + wait > deadline:
            if outage and wrong is None:
                raise outage
            return wrong
        await asyncio.sleep(wait)
        wait = min(wait * 2, SLOWEST_PROBE)


async def _put_back(bad: Version, use: Services, trouble: str) -> GiveUp:
    """Restore the last good version under a new number; the error to end the run with. Done twice, it has the same number and key."""
    what = f"version {bad.number} of {bad.tenant_id} did not become healthy ({trouble})"
    good = await use.versions.restore(bad.tenant_id, instead_of=bad.number)
    if good is None:
        return GiveUp(f"{what}, and the tenant has no earlier one, so nothing is served; look at the inference service's log", code="unhealthy")
    point("deploy.restoring")
    conflict = await use.inference.deploy(
        tenant_id=good.tenant_id,
        version=good.number,
        model_path=good.model_path,
        index_path=good.index_path,
        expected_version=bad.number,
        config={},
        key=f"rollback:{good.tenant_id}:{good.number}",
    )
    if conflict is not None and conflict.live != good.number:
        return GiveUp(f"{what}; meanwhile version {conflict.live} went live and was left there; see `tidemill versions`", code="unhealthy")
    if still := await _unhealthy(good, use):
        return GiveUp(
            f"{what}, nor did the last good one, put back as {good.number} ({still}); look at the inference service", code="rollback_failed"
        )
    await use.versions.mark_live(good.tenant_id, good.number)
    return GiveUp(
        f"{what}; the last good one was put back as version {good.number}; look at the inference service's log, then `tidemill retry` the run",
        code="unhealthy",
    )
