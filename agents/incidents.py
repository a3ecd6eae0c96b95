"""From a finding to what changes about its incident: the decision table's answer as the ledger takes it."""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from expectations import decide
from streams.clients.quality import Change, IncidentState, incident_id

Finding = dict[str, Any]


def change(
    tenant: str,
    finding: Finding,
    before: IncidentState | None,
    now: datetime,
    policy: decide.Policy,
    *,
    begun_by: UUID | datetime | None,
    title: Callable[[Finding, str], str],
    message: Callable[[str, Finding, str], str],
) -> Change:
    """What is done about one check of a tenant; `title` and `message` are asked only if somebody is told."""
    known = None if before is None else decide.Incident(before.open, before.severity, before.told_at, before.resolved_at, before.calm, before.flaps)
    decision = decide.decide(finding, known, now, policy)
    if known is None and decision.action not in decide.TOLD:
        return _nothing(decision)
    after = decide.follow(known, decision, now)
    kind = decide.TOLD.get(decision.action)
    state = None
    if after is not None and after != known:
        same = before.id if before is not None and decision.action is not decide.Action.OPEN else None
        incident = same or incident_id(tenant, finding["check"], begun_by)
        state = IncidentState(incident, after.open, after.severity, after.told_at, after.resolved_at, after.calm, after.flaps)
    return Change(
        check=finding["check"],
        action=decision.action,
        reason=decision.reason,
        severity=decision.severity,
        title=title(finding, kind) if kind else "",
        message=message(tenant, finding, kind) if kind else "",
        details=dict(finding) if kind else {},
        kind=kind,
        after=state,
        listed=not decision.quiet,
    )


@cache
def _nothing(decision: decide.Decision) -> Change:
    """Nobody is told, and there is no incident: the same for everybody."""
    return Change(check=decision.check, action=decision.action, reason=decision.reason, severity=decision.severity, listed=not decision.quiet)
