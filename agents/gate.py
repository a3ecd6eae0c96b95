"""The gate before training: the last quality verdict decides, unless an operator allowed it or nobody watches the tenant's data."""

from datetime import timedelta

from agents.quality import warehouse_of
from expectations.trouble import is_away
from expectations.warehouse import Warehouse
from schemas.states import RunState
from schemas.training import TrainingRequested
from streams.clients.quality import LastVerdict
from streams.services import Services
from streams.stage import GiveUp, TryAgain

LOOK_AGAIN = timedelta(seconds=5)
"""At the latest; the verdict itself wakes the step."""


async def pass_gate(event: TrainingRequested, use: Services) -> None:
    """Return if the tenant may train; else raise what becomes of the run. Only reads, but for asking to measure, which may be asked twice."""
    if use.settings.quality.gate == "off":
        return
    last = await use.quality.last_verdict(event.tenant_id)
    if last is not None and (last.gate == "off" or last.allowed is not None):
        return
    if last is not None and last.watched:
        _judge(event.tenant_id, last)
    elif use.settings.quality.no_verdict != "allow" and await _knows(warehouse_of(use.settings), event.tenant_id):
        await _without_verdict(event, use)


def _judge(tenant: str, last: LastVerdict) -> None:
    """A verdict on no data holds nobody: that there is none has been looked at for this very run, or the gate would not ask it."""
    if not last.watched or last.verdict in ("pass", "warn"):
        return
    named = ", ".join(last.failed[:8]) + (f" and {len(last.failed) - 8} more" if len(last.failed) > 8 else "")
    why = "did not pass" if last.verdict == "fail" else "could not be measured"
    raise GiveUp(
        f"the data of {tenant} {why} at {last.at:%Y-%m-%d %H:%M} UTC: {named}; see `tidemill quality show {tenant}`, mend the data and "
        f"`tidemill quality run {tenant}`, or `tidemill quality allow {tenant} --reason …`",
        code="data_quality",
        outcome=RunState.BLOCKED,
    )


async def _without_verdict(event: TrainingRequested, use: Services) -> None:
    tenant = event.tenant_id
    if use.settings.quality.no_verdict == "block":
        raise GiveUp(f"the data of {tenant} has never been measured; `tidemill quality run {tenant}`", code="data_quality", outcome=RunState.BLOCKED)
    assert event.run_id is not None
    if await use.quality.ask_to_measure(tenant, event.run_id):
        raise TryAgain(
            f"the data of {tenant} is being measured for the first time", code="quality_unknown", after=LOOK_AGAIN, free=True, waiting_for="quality"
        )
    if (last := await use.quality.last_verdict(tenant)) is not None:  # recorded since the gate looked first
        _judge(tenant, last)


async def _knows(warehouse: Warehouse, tenant: str) -> bool:
    """Whether the warehouse has anything of the tenant: who is not there, is neither watched nor gated."""
    try:
        return await warehouse.knows(tenant)
    except Exception as error:
        if not is_away(error):
            raise
        raise TryAgain(
            "the warehouse does not answer, so nobody knows whether the tenant is watched; see that it runs, or TIDEMILL_QUALITY__GATE=off",
            code="warehouse_away",
            after=LOOK_AGAIN,
            free=True,
            waiting_for="warehouse",
        ) from error
