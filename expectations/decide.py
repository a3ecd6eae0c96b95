"""What follows from a finding: a pure decision table over the state of the check's incident and what was found now.

Each row says whether somebody is told, and why; the reasons go into the journal with the decision.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from expectations.suites import MEASUREMENT, SEVERITIES

MOST_CALM = 4
"""Healthy ticks in a row that even the most restless check needs to be well again."""


class Standing(StrEnum):
    """Where the check's incident is."""

    NONE = "none"  # there is none, or it was resolved long ago
    BACK = "back"  # one was resolved a short while ago
    OPEN = "open"


class Sign(StrEnum):
    """What was found, as seen from the incident."""

    HEALTHY = "healthy"
    MINOR = "minor"  # wrong, but of a severity that nobody is told about
    BAD = "bad"  # wrong; for an open incident: as bad as it is known to be, or less
    WORSE = "worse"  # worse than the open incident is known to be
    UNKNOWN = "unknown"  # could not be measured, or the baseline is still learning
    OFF = "off"  # the tenant switched the check off
    GONE = "gone"  # nobody watches the tenant any more


class Action(StrEnum):
    """What is done; all but the skips and the counting are told."""

    OPEN = "open"
    REOPEN = "reopen"
    WORSEN = "worsen"
    REMIND = "remind"
    CALM = "calm"  # skip: healthy, but not for long enough
    RESOLVE = "resolve"
    SKIP = "skip"


TOLD = {Action.OPEN: "opened", Action.REOPEN: "reopened", Action.WORSEN: "worse", Action.REMIND: "reminder", Action.RESOLVE: "resolved"}
"""Actions that somebody is told of, by the kind of transition they are."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What is known of a check's newest incident."""

    open: bool
    severity: str
    told_at: datetime
    resolved_at: datetime | None = None
    calm: int = 0
    flaps: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """How restless the alerting is."""

    remind_every: timedelta = timedelta(days=3)
    flapping_within: timedelta = timedelta(hours=24)
    least: str = "medium"
    """Findings of a lower severity are kept, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about one check, and why."""

    check: str
    action: Action
    reason: str
    severity: str | None = None
    bad: bool = False
    """Something is wrong now, whether anybody is told or not."""

    @property
    def quiet(self) -> bool:
        """Healthy and known to be so: counted, not listed."""
        return self.action is Action.SKIP and self.severity is None


_S, _F, _A = Standing, Sign, Action
TABLE: dict[tuple[Standing, Sign], tuple[Action, str]] = {
    (_S.NONE, _F.HEALTHY): (_A.SKIP, "healthy"),
    (_S.NONE, _F.MINOR): (_A.SKIP, "minor: below the severity that is told"),
    (_S.NONE, _F.BAD): (_A.OPEN, "it began now"),
    (_S.NONE, _F.UNKNOWN): (_A.SKIP, "not known"),
    (_S.NONE, _F.OFF): (_A.SKIP, "switched off"),
    (_S.NONE, _F.GONE): (_A.SKIP, "not watched any more"),
    (_S.BACK, _F.HEALTHY): (_A.SKIP, "healthy"),
    (_S.BACK, _F.MINOR): (_A.SKIP, "minor: below the severity that is told"),
    (_S.BACK, _F.BAD): (_A.REOPEN, "it came back soon after it was resolved"),
    (_S.BACK, _F.UNKNOWN): (_A.SKIP, "not known"),
    (_S.BACK, _F.OFF): (_A.SKIP, "switched off"),
    (_S.BACK, _F.GONE): (_A.SKIP, "not watched any more"),
    (_S.OPEN, _F.HEALTHY): (_A.RESOLVE, "healthy again"),
    (_S.OPEN, _F.MINOR): (_A.RESOLVE, "below the severity that is told again"),
    (_S.OPEN, _F.BAD): (_A.SKIP, "known: told already"),
    (_S.OPEN, _F.WORSE): (_A.WORSEN, "worse than known"),
    (_S.OPEN, _F.UNKNOWN): (_A.SKIP, "not known: stays as it is"),
    (_S.OPEN, _F.OFF): (_A.RESOLVE, "switched off"),
    (_S.OPEN, _F.GONE): (_A.RESOLVE, "not watched any more"),
}
"""The whole table; `decide` refines two rows by time: a known one is told again now and then, a restless one has to stay healthy longer."""


def decide(finding: dict[str, Any], incident: Incident | None, now: datetime, policy: Policy) -> Decision:
    """What to do about a finding."""
    if incident is None:  # most checks of most tenants
        return _decide_first(finding["check"], finding["status"], finding.get("severity"), policy)
    standing = _standing(incident, now, policy)
    sign = _sign(finding, incident if standing is Standing.OPEN else None, policy)
    action, reason = TABLE[standing, sign]
    severity = finding.get("severity")
    if standing is Standing.OPEN:
        if action is Action.SKIP and sign is Sign.BAD and now - incident.told_at >= policy.remind_every:
            action, reason = Action.REMIND, f"still so, and last told {policy.remind_every} ago or longer"
        elif action is Action.RESOLVE and sign in (Sign.HEALTHY, Sign.MINOR) and incident.calm + 1 < (needed := min(1 + incident.flaps, MOST_CALM)):
            action, reason = Action.CALM, f"healthy {incident.calm + 1} of {needed} times in a row: it came back {incident.flaps} times"
        severity = severity or incident.severity
    return Decision(finding["check"], action, reason, severity, bad=sign in (Sign.BAD, Sign.WORSE))


def follow(incident: Incident | None, decision: Decision, now: datetime) -> Incident | None:
    """The incident after the decision."""
    severity = decision.severity or "medium"
    if decision.action is Action.OPEN:
        return Incident(True, severity, now)
    if incident is None:
        return None
    if decision.action is Action.REOPEN:
        return Incident(True, severity, now, flaps=incident.flaps + 1)
    if decision.action is Action.RESOLVE:
        return replace(incident, open=False, told_at=now, resolved_at=now, calm=0)
    if decision.action in (Action.WORSEN, Action.REMIND):
        return replace(incident, severity=_worse(severity, incident.severity), told_at=now, calm=0)
    if decision.action is Action.CALM:
        return replace(incident, calm=incident.calm + 1)
    return replace(incident, calm=0) if decision.bad else incident


@cache
def _decide_first(check: str, status: str, severity: str | None, policy: Policy) -> Decision:
    """What to do where there was never an incident: the same for everybody."""
    sign = _sign({"check": check, "status": status, "severity": severity}, None, policy)
    action, reason = TABLE[Standing.NONE, sign]
    return Decision(check, action, reason, severity, bad=sign is Sign.BAD)


def _standing(incident: Incident, now: datetime, policy: Policy) -> Standing:
    if incident.open:
        return Standing.OPEN
    back = incident.resolved_at is not None and now - incident.resolved_at < policy.flapping_within
    return Standing.BACK if back else Standing.NONE


def _sign(finding: dict[str, Any], incident: Incident | None, policy: Policy) -> Sign:
    status = finding["status"]
    if status in ("off", "gone"):
        return Sign(status)
    if status == "pass":
        return Sign.HEALTHY
    if status == "learning" or (status == "error" and finding["check"] != MEASUREMENT):
        return Sign.UNKNOWN
    severity = finding["severity"]
    if _rank(severity) < _rank(policy.least):
        return Sign.MINOR
    return Sign.WORSE if incident and _rank(severity) > _rank(incident.severity) else Sign.BAD


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)


def _worse(one: str, other: str) -> str:
    return max(one, other, key=_rank)
