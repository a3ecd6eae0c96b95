"""`tidemill why`: from what the ledger knows of a run, the one thing that it waits for now; of a tenant, when it runs and why not. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

SHOWN = 5
"""Holders of a limit that are named."""
_WINDOWS = (("burst", timedelta(minutes=1), "a minute"), ("per_hour", timedelta(hours=1), "an hour"))
"""Quotas of runs begun: setting, how long each counts, and its name."""


class Reason(NamedTuple):
    """What a run waits for: a word for programs, a sentence for people."""

    waits_for: str
    sentence: str


def reason(facts: Mapping[str, Any], limits: Mapping[str, int]) -> Reason:
    """The first thing that keeps the run from going on."""
    now, stage = facts["now"], facts["stage"]
    if facts["finished_at"] is not None:
        why = f": {facts['code']}: {facts['reason'] or 'no reason given'}" if facts["code"] else ""
        return Reason("nothing", f"is over since {_at(facts['finished_at'])}, {facts['state']}{why}")
    if facts["state"] == "pending":
        return Reason("active_run", f"follows when run {str(facts['active_run'])[:8]} of the same tenant is over")
    if facts["slot"] is not None:
        held = f"lease for {facts['lease']:.0f} s more" if facts["lease"] > 0 else f"lease over for {-facts['lease']:.0f} s: it is taken over"
        return Reason("worker", f"is at {stage}, attempt {facts['attempt']}: worker {facts['slot']} works on it ({held})")
    if facts["step_state"] == "waiting":
        ask = f"asked after in {_span(facts['due_at'], now)}" if facts["due_at"] > now else "asked after now"
        return Reason(
            "job", f"waits for job {facts['job_id']} of {stage} until {_at(facts['deadline'])} at most ({_span(facts['deadline'], now)}); {ask}"
        )
    if facts["paused_since"] is not None and facts["state"] != "cancelling":
        return _pause(facts, now)
    if facts["waiting_for"] is not None:
        return Reason(
            "neighbour", f"waits at {stage} for {facts['waiting_for']} ({facts['step_code']}); tried again in {_span(facts['due_at'], now)}"
        )
    if facts["due_at"] is not None and facts["due_at"] > now:
        after = f" after {facts['step_code']}" if facts["step_code"] else ""
        return Reason(
            "retry", f"waits for attempt {facts['attempt']} of {stage}{after}, due in {_span(facts['due_at'], now)} ({_at(facts['due_at'])})"
        )
    return _place(facts, limits, now)


def tenant_reasons(facts: Mapping[str, Any], limits: Mapping[str, int]) -> list[str]:
    """`tidemill why TENANT`: what runs now, what runs next and what came of the last times, a sentence each."""
    now, said = facts["now"], []
    if facts["status"] != "active":
        said.append(f"is {facts['status']}: its requests are refused and its schedules pass it over")
    said += [f"run {str(run['run_id'])[:8]} ({run['pipeline']}) {reason(run, limits).sentence}" for run in facts["open"]]
    for pause in facts["pauses"]:
        what = f"pipeline {pause['pipeline']}" if pause["pipeline"] else "every pipeline"
        said.append(f"{what} is paused since {_span(now, pause['since'])} by {pause['paused_by']} ({pause['reason'] or 'no reason given'})")
    said += [_schedule(each, now) for each in facts["schedules"]]
    if not facts["schedules"]:
        said.append("no schedule asks for its runs")
    if facts["arrivals"] is not None:
        seen = facts["arrivals"]
        said.append(f"data that arrives: {seen['reason']} (looked at {_span(now, seen['looked_at'])} ago)")
    return said


def _schedule(each: Mapping[str, Any], now: datetime) -> str:
    when = f"paused: `tidemill schedules resume {each['name']}`" if each["paused"] else "over"
    if each["next_fire"] is not None and not each["paused"]:
        when = f"next in {_span(each['next_fire'], now)} ({_at(each['next_fire'])})"
    last = ""
    if each["last_due"] is not None:
        why = f": {each['last_reason']}" if each["last_reason"] else ""
        run = f", run {str(each['last_run'])[:8]}" if each["last_run"] else ""
        last = f"; the last was due {_at(each['last_due'])}, {each['last_state']}{why}{run}"
    return f"schedule {each['name']} ({each['pipeline']}): {when}{last}"


def _pause(facts: Mapping[str, Any], now: datetime) -> Reason:
    what = f"pipeline {facts['pause_pipeline']}" if facts["pause_pipeline"] else "the tenant"
    what += " of this tenant" if facts["pause_pipeline"] and facts["pause_tenant"] else ""
    end = " ".join(f"--{name} {facts[f'pause_{name}']}" for name in ("pipeline", "tenant") if facts[f"pause_{name}"])
    sentence = f"waits at {facts['stage']}: {what} is paused since {_span(now, facts['paused_since'])} by {facts['paused_by']}"
    return Reason("pause", f"{sentence} ({facts['pause_reason'] or 'no reason given'}); `tidemill resume {end}`")


def _place(facts: Mapping[str, Any], limits: Mapping[str, int], now: datetime) -> Reason:
    """Nothing but its turn: a limit, a quota, or the queue."""
    stage, quota = facts["stage"], facts["dispatch"] or {}
    if not facts["workers"]:
        return Reason(
            "workers", f"is ready for {stage} since {_span(now, facts['ready_at'])}, and no worker is alive; start one with `tidemill worker`"
        )
    most, name = limits.get(facts["limit_name"]), facts["limit_name"]
    if most is not None and facts["limit_held"] >= most:
        holders = facts["limit_holders"] or []
        named = ", ".join(holders[:SHOWN]) + (f" and {len(holders) - SHOWN} more" if len(holders) > SHOWN else "")
        return Reason("limit", f"waits at {stage} for one of the {most} places of {name}, all held ({named}); {facts['ahead']} steps go before it")
    if (bound := quota.get("concurrent")) and facts["in_hand"] >= bound:
        return Reason("quota", f"waits at {stage}: the tenant has {facts['in_hand']} of the {bound} steps in hand that its quota allows at a time")
    for name, window, words in _WINDOWS if facts["first"] else ():  # a run that has begun is bound by none
        begun = [at for at in facts["begun_at"] if at > now - window]
        if (bound := quota.get(name)) and len(begun) >= bound:
            free = _span(begun[len(begun) - bound] + window, now)
            said = f"the tenant began {len(begun)} of the {bound} runs that its quota allows within {words}"
            return Reason("quota", f"waits at {stage}: {said} ({name}); the next may begin in {free}")
    since = _span(now, facts["ready_at"])
    return Reason("turn", f"is ready for {stage} since {since}: {facts['ahead']} steps go before it, {facts['workers']} workers are alive")


def _at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(later: datetime, earlier: datetime) -> str:
    """How long between the two; two units at most."""
    left = max(0, round((later - earlier).total_seconds()))
    for unit, small, size in (("d", "h", 86_400), ("h", "min", 3600), ("min", "s", 60)):
        if left >= size:
            return f"{left // size} {unit} {left % size // (size // {'d': 24}.get(unit, 60))} {small}"
    return f"{left} s"
