"""The decision table, whole: every state of an incident against everything that can be found."""

import itertools
from datetime import timedelta

import pytest

from expectations.decide import TABLE, TOLD, Action, Incident, Policy, Sign, Standing, decide, follow
from expectations.suites import MEASUREMENT, SEVERITIES
from tests.quality.data import NOW

POLICY = Policy(remind_every=timedelta(days=3), flapping_within=timedelta(hours=24), least="medium")
LATELY, LONG_AGO = NOW - timedelta(hours=6), NOW - timedelta(days=9)


def finding(status="pass", severity=None, check="items.fresh"):
    return {"check": check, "status": status, "severity": severity}


def bad(severity="medium"):
    return finding("fail", severity)


def opened(severity="medium", told=LATELY, **changes):
    return Incident(True, severity, told, **changes)


def resolved(at, **changes):
    return Incident(False, "medium", at, resolved_at=at, **changes)


NONE, OPEN, BACK, FORGOTTEN = None, opened(), resolved(LATELY), resolved(LONG_AGO)
HEALTHY, MINOR, BAD, WORSE, UNKNOWN, LEARNING, OFF = (
    finding(), bad("low"), bad(), bad("high"), finding("error"), finding("learning"), finding("off"),
)  # fmt: skip
WHOLE = {
    ("none", "healthy"): (NONE, HEALTHY, "skip"),
    ("none", "minor"): (NONE, MINOR, "skip"),
    ("none", "bad"): (NONE, BAD, "open"),
    ("none", "worse"): (NONE, WORSE, "open"),
    ("none", "unknown"): (NONE, UNKNOWN, "skip"),
    ("none", "learning"): (NONE, LEARNING, "skip"),
    ("none", "off"): (NONE, OFF, "skip"),
    ("open", "healthy"): (OPEN, HEALTHY, "resolve"),
    ("open", "minor"): (OPEN, MINOR, "resolve"),
    ("open", "bad"): (OPEN, BAD, "skip"),
    ("open", "worse"): (OPEN, WORSE, "worsen"),
    ("open", "unknown"): (OPEN, UNKNOWN, "skip"),
    ("open", "learning"): (OPEN, LEARNING, "skip"),
    ("open", "off"): (OPEN, OFF, "resolve"),
    ("back", "healthy"): (BACK, HEALTHY, "skip"),
    ("back", "minor"): (BACK, MINOR, "skip"),
    ("back", "bad"): (BACK, BAD, "reopen"),
    ("back", "worse"): (BACK, WORSE, "reopen"),
    ("back", "unknown"): (BACK, UNKNOWN, "skip"),
    ("back", "learning"): (BACK, LEARNING, "skip"),
    ("back", "off"): (BACK, OFF, "skip"),
    ("forgotten", "healthy"): (FORGOTTEN, HEALTHY, "skip"),
    ("forgotten", "bad"): (FORGOTTEN, BAD, "open"),
}


@pytest.mark.parametrize("case", WHOLE, ids="-".join)
def test_the_table(case):
    incident, found, action = WHOLE[case]
    decision = decide(found, incident, NOW, POLICY)
    assert decision.action == action
    assert decision.reason


def test_the_table_answers_every_standing_and_sign():
    possible = set(itertools.product(Standing, Sign)) - {(Standing.NONE, Sign.WORSE), (Standing.BACK, Sign.WORSE)}
    assert set(TABLE) == possible  # without an open incident there is nothing to be worse than
    assert all(reason for _, reason in TABLE.values())


@pytest.mark.parametrize(("known", "now"), [*itertools.product(SEVERITIES[1:], SEVERITIES[1:])])
def test_only_a_severity_that_rises_is_told_of_an_open_incident(known, now):
    decision = decide(bad(now), opened(known), NOW, POLICY)
    worse = SEVERITIES.index(now) > SEVERITIES.index(known)
    assert decision.action == (Action.WORSEN if worse else Action.SKIP)
    after = follow(opened(known), decision, NOW)
    assert after.severity == (now if worse else known)


def test_an_open_incident_is_told_again_after_three_days_and_not_before():
    assert decide(bad(), opened(told=NOW - timedelta(days=3, seconds=-1)), NOW, POLICY).action is Action.SKIP
    assert decide(bad(), opened(told=NOW - timedelta(days=3)), NOW, POLICY).action is Action.REMIND


def test_ten_bad_ticks_and_a_good_one_are_told_twice():
    incident, told = None, []
    for tick in range(11):
        now = NOW + timedelta(hours=6 * tick)
        decision = decide(bad() if tick < 10 else finding(), incident, now, POLICY)
        incident = follow(incident, decision, now)
        told += [TOLD[decision.action]] if decision.action in TOLD else []
    assert told == ["opened", "resolved"]


def test_a_restless_check_must_stay_healthy_longer_each_time():
    incident, told = None, []
    for tick in range(40):
        now = NOW + timedelta(hours=6 * tick)
        decision = decide(bad() if tick % 2 == 0 else finding(), incident, now, POLICY)
        incident = follow(incident, decision, now)
        told += [TOLD[decision.action]] if decision.action in TOLD else []
    assert told[:4] == ["opened", "resolved", "reopened", "reminder"]
    assert told.count("resolved") == 1  # never healthy twice in a row again
    assert len(told) <= 2 + 2 + 40 * 6 // 72


def test_a_check_that_calms_down_is_resolved_once():
    incident: Incident | None = Incident(True, "medium", LATELY, flaps=2)
    actions = []
    for tick in range(4):
        decision = decide(finding(), incident, NOW + timedelta(hours=tick), POLICY)
        incident = follow(incident, decision, NOW + timedelta(hours=tick))
        actions.append(str(decision.action))
    assert actions == ["calm", "calm", "resolve", "skip"]


def test_a_bad_tick_in_between_begins_the_count_of_healthy_ones_anew():
    incident = follow(opened(flaps=1, calm=1), decide(bad(), opened(flaps=1, calm=1), NOW, POLICY), NOW)
    assert incident.calm == 0


def test_a_tenant_that_cannot_be_measured_is_one_incident_of_its_own():
    assert decide(finding("error", "high", MEASUREMENT), None, NOW, POLICY).action is Action.OPEN
    assert decide(finding("error"), None, NOW, POLICY).action is Action.SKIP


def test_quiet_decisions_are_those_of_checks_that_were_healthy_and_stay_so():
    assert decide(finding(), None, NOW, POLICY).quiet
    assert not decide(bad("low"), None, NOW, POLICY).quiet
    assert not decide(bad(), opened(), NOW, POLICY).quiet
