"""What did not happen, judged: an absence is a finding like any other, and opens, goes on and ends by the same table as those of the data."""

from datetime import datetime, timedelta
from typing import Any

from agents.incidents import change
from expectations import decide
from streams.clients.quality import Change
from streams.incidents import state
from streams.settings import Settings

SEVERITY = {"absence.training": "high", "absence.tick": "medium", "absence.run": "high"}
WHAT = {"absence.training": "successful training", "absence.tick": "data-quality tick"}


def judge(row: dict[str, Any], now: datetime, settings: Settings) -> Change:
    """What changes about the incident of one check of a tenant (a row of the ledger's `absences`)."""
    policy = decide.Policy(remind_every=settings.quality.remind_every, flapping_within=settings.quality.flapping_within)
    finding: dict[str, Any] = {"check": row["check_name"], "status": "fail" if row["late"] else "pass"}
    if row["late"]:
        finding |= {"severity": SEVERITY[row["check_name"]], "hours": hours(now - row["since"])}
    if row["since"] is not None:
        finding |= {"since": row["since"].isoformat(), "allowed_hours": hours(row["allowed"])}
    for name in ("last_run", "last_state", "last_code", "expected"):
        if row[name] is not None:
            finding[name] = str(row[name])
    before = state(row) if row["id"] is not None else None
    return change(row["tenant_id"], finding, before, now, policy, begun_by=row["since"], title=title, message=message)


def title(finding: dict[str, Any], kind: str) -> str:
    """The alert's headline."""
    if finding["check"] == "absence.run":
        return "Resolved: no run takes too long" if kind == "resolved" else f"A run is not over after {finding['hours']:g} h"
    what = WHAT[finding["check"]]
    return f"Resolved: there was a {what} again" if kind == "resolved" else f"No {what} for {finding['hours']:g} h"


def message(tenant: str, finding: dict[str, Any], kind: str) -> str:
    """The alert's text: since when, what is allowed, what was last, and what to do."""
    if kind == "resolved":
        return f"{tenant}, {finding['check']}: {_after(finding)}"
    over = f"since {finding['since'][:16].replace('T', ' ')} UTC ({finding['hours']:g} h, allowed are {finding['allowed_hours']:g} h)"
    state = ", ".join(finding[name] for name in ("last_state", "last_code") if name in finding)
    last = f"run {finding['last_run'][:8]} ({state})" if "last_run" in finding else ""
    if finding["check"] == "absence.run":
        return f"{tenant}, absence.run: {last} is open {over}; `tidemill why {finding['last_run'][:8]}` says what it waits for"
    due = f"its schedules are {finding['expected']}" if "expected" in finding else "no schedule asks for it"
    began = f"the newest is {last}" if last else "there was none at all"
    look = f"`tidemill runs --tenant {tenant}`, `tidemill schedules list`"
    return f"{tenant}, {finding['check']}: no {WHAT[finding['check']]} {over}; {began}; {due}. {look}"


def hours(span: timedelta) -> float:
    return round(span.total_seconds() / 3600, 1)


def _after(finding: dict[str, Any]) -> str:
    if finding["check"] == "absence.run" and finding.get("last_state") not in (None, "pending", "running", "cancelling"):
        return f"run {finding['last_run'][:8]} is over: {finding['last_state']}"
    if "since" not in finding:
        return "nothing is expected of the tenant any more: it is paused, suspended or deleted, or the check is off"
    if finding["check"] == "absence.run":
        return "the oldest open run is within its time"
    return f"the newest {WHAT[finding['check']]} was at {finding['since'][:16].replace('T', ' ')} UTC"
