"""Great Expectations judges every suite: a good sample passes, a bad one names exactly the checks that do not hold, at their boundaries too."""

from dataclasses import replace
from datetime import timedelta

import pytest

from expectations.findings import QUESTIONS, conclude, prepare, to_hold
from expectations.judge import judge
from expectations.limits import Limits, read_own
from expectations.profile import Profile
from expectations.shape import Difference
from expectations.suites import BLOCKING, CHECKS, SUITES
from expectations.trouble import Trouble
from tests.quality.data import NOW

TABLES = ("tenants", "users", "items", "user_interactions", "model_training_runs")
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]  # the library's own warnings

GOOD = {
    "users.rows": 100, "users.null_user_id": 0, "users.null_created_at": 0,
    "items.rows": 50, "items.null_item_id": 0, "items.null_content": 0, "items.null_created_at": 0, "items.future": 0, "items.age": 3600.0,
    "user_interactions.rows": 1000, "user_interactions.null_user_id": 0, "user_interactions.null_item_id": 0,
    "user_interactions.null_interaction_type": 0, "user_interactions.null_timestamp": 0,
    "user_interactions.null_created_at": 0, "user_interactions.invalid": 0,
    "user_interactions.future": 0, "user_interactions.age": 600.0, "user_interactions.rows_hour": 10, "user_interactions.rows_day": 200,
    "user_interactions.users_day": 40, "user_interactions.items_day": 30,
    "model_training_runs.age": 7200.0, "orphan_items.count": 0, "orphan_users.count": 0, "duplicates.count": 0,
}  # fmt: skip
BAD = {
    "completeness": {"users.null_user_id": 1, "items.null_content": 50, "user_interactions.null_timestamp": 3},
    "freshness": {"user_interactions.age": 25 * 3600.0, "items.age": 8 * 86400.0, "model_training_runs.age": None, "items.future": 1},
    "anomalies": {"duplicates.count": 5, "orphan_items.count": 7, "orphan_users.count": 200, "user_interactions.invalid": 1},
}
NAMED = {
    "completeness": {"users.user_id.complete": "medium", "items.content.complete": "high", "user_interactions.timestamp.complete": "medium"},
    "freshness": {"user_interactions.fresh": "high", "items.fresh": "medium", "model_training_runs.fresh": "medium", "items.future": "high"},
    "anomalies": {
        "user_interactions.unique": "medium",
        "user_interactions.items": "medium",
        "user_interactions.users": "high",
        "user_interactions.types": "medium",
    },
}


def a_profile(tenant="acme", **numbers):
    return Profile(tenant, known=True, numbers=GOOD | numbers, shape={table: Difference() for table in TABLES}, settled=NOW)


def judged(*profiles, own=None, samples=None, limits=None, held=None):
    """Each tenant's (verdict, checks that failed with their severity, all findings)."""
    cases = [prepare(profile, samples or {}, limits or Limits(), read_own({"quality": own or {}}), NOW, held) for profile in profiles]
    failed = judge(QUESTIONS, [case.row for case in cases])
    answers = {}
    for case in cases:
        verdict, findings = conclude(case, failed.get(case.profile.tenant_id, {}))
        bad = {finding["check"]: finding["severity"] for finding in findings if finding["status"] == "fail"}
        answers[case.profile.tenant_id] = verdict, bad, {finding["check"]: finding for finding in findings}
    return answers


@pytest.mark.parametrize("suite", SUITES)
def test_a_good_sample_passes_and_a_bad_one_names_its_checks(suite):
    answers = judged(a_profile("good"), a_profile("bad", **BAD[suite]), a_profile("good-too"))
    assert answers["good"][:2] == ("pass", {})
    assert answers["good-too"][:2] == ("pass", {})
    verdict, bad, _ = answers["bad"]
    assert bad == NAMED[suite]
    assert verdict == "fail"


@pytest.mark.parametrize(
    ("number", "check", "hours"),
    [
        ("user_interactions.age", "user_interactions.fresh", 24),
        ("items.age", "items.fresh", 168),
        ("model_training_runs.age", "model_training_runs.fresh", 24),
    ],
)
def test_a_minute_before_the_limit_is_fresh_and_a_minute_after_it_is_not(number, check, hours):
    limit = timedelta(hours=hours).total_seconds()
    answers = judged(a_profile("before", **{number: limit - 60}), a_profile("at", **{number: limit}), a_profile("after", **{number: limit + 60}))
    assert [check in answers[tenant][1] for tenant in ("before", "at", "after")] == [False, True, True]


def test_three_of_a_thousand_missing_is_99_7_percent_complete_and_worth_an_alert():
    verdict, _, findings = judged(a_profile(**{"user_interactions.null_user_id": 3}))["acme"]
    finding = findings["user_interactions.user_id.complete"]
    assert 100 - finding["value"] == pytest.approx(99.7)
    assert (finding["count"], finding["of"], finding["severity"], verdict) == (3, 1000, "medium", "warn")


def test_exactly_one_percent_missing_is_medium_and_one_row_more_is_high():
    answers = judged(a_profile("ten", **{"user_interactions.null_user_id": 10}), a_profile("eleven", **{"user_interactions.null_user_id": 11}))
    assert [answers[tenant][1]["user_interactions.user_id.complete"] for tenant in ("ten", "eleven")] == ["medium", "high"]
    assert [answers[tenant][0] for tenant in ("ten", "eleven")] == ["warn", "fail"]


def test_an_empty_table_is_not_fresh():
    verdict, bad, findings = judged(a_profile(**{"user_interactions.age": None, "user_interactions.rows": 0}))["acme"]
    assert (verdict, bad["user_interactions.fresh"]) == ("fail", "high")
    assert findings["user_interactions.fresh"]["value"] is None
    assert findings["user_interactions.user_id.complete"]["status"] == "pass"


def test_limits_and_switched_off_checks_are_the_tenants_own():
    own = {"off": ["items.fresh"], "limits": {"user_interactions.unique": {"medium": 1}, "user_interactions.fresh": {"high": 48}}}
    worn = {"items.age": None, "duplicates.count": 9, "user_interactions.age": 30 * 3600.0}
    verdict, bad, findings = judged(a_profile(**worn), own=own)["acme"]
    assert (verdict, bad) == ("pass", {})
    assert findings["items.fresh"]["status"] == "off"


def test_what_cannot_be_measured_is_an_error_and_never_a_pass():
    profile = a_profile()
    profile.troubles["orphan_items"] = Trouble("table_locked", "items", "items was locked")
    verdict, bad, findings = judged(profile)["acme"]
    assert (verdict, bad) == ("error", {})
    assert findings["user_interactions.items"]["code"] == "table_locked"
    assert (findings["measurement"]["status"], findings["measurement"]["code"]) == ("error", "table_locked")


def test_what_cannot_be_measured_and_never_blocks_is_a_warning_that_is_told_and_makes_nobody_watched():
    profile = a_profile()
    profile.troubles["training_newest"] = Trouble("no_permission", "model_training_runs", "model_training_runs may not be read")
    verdict, bad, findings = judged(profile)["acme"]
    assert (verdict, bad) == ("warn", {})
    assert (findings["measurement"]["status"], findings["measurement"]["severity"]) == ("error", "medium")
    assert not Profile("stranger", troubles=profile.troubles).watched


def test_a_failed_check_outweighs_one_that_could_not_be_measured():
    profile = a_profile(**{"user_interactions.age": None})
    profile.troubles["orphan_items"] = Trouble("table_locked", "items", "items was locked")
    assert judged(profile)["acme"][0] == "fail"


def test_a_missing_column_is_named_and_an_extra_one_only_told():
    profile = a_profile()
    profile.shape["items"] = Difference(missing=["content"])
    profile.shape["users"] = Difference(extra=["shoe_size"])
    verdict, bad, findings = judged(profile)["acme"]
    assert (verdict, bad) == ("fail", {"items.columns": "high"})
    assert "content is missing" in findings["items.columns"]["note"]
    assert findings["users.columns"]["extra"] == ["shoe_size"]


def weeks(*values):
    return {(NOW - timedelta(weeks=n + 1) - timedelta(days=NOW.weekday())).date().isoformat(): float(value) for n, value in enumerate(values)}


def test_a_tenfold_spike_is_unusual_and_a_wobble_is_not():
    samples = {"user_interactions.rows_day": weeks(190, 210, 200, 205, 195)}
    answers = judged(
        a_profile("spike", **{"user_interactions.rows_day": 2000}), a_profile("wobble", **{"user_interactions.rows_day": 207}), samples=samples
    )
    assert answers["spike"][1] == {"user_interactions.volume": "high"}
    assert answers["wobble"][1] == {}
    assert answers["spike"][2]["user_interactions.volume"]["usual"] == 200


def test_the_baseline_says_that_it_is_still_learning():
    samples = {"user_interactions.rows_day": weeks(190, 210, 200)}
    verdict, _, findings = judged(a_profile(**{"user_interactions.rows_day": 2000}), samples=samples)["acme"]
    assert (verdict, findings["user_interactions.volume"]["status"]) == ("pass", "learning")
    assert "week 3 of 4" in findings["user_interactions.volume"]["note"]


HELD = {"user_interactions.volume": {"value": -9.5, "count": 3.0, "usual": 200.0, "at": "2026-03-04T06:00:00+00:00"}}


@pytest.mark.parametrize(("own", "expected"), [({}, "fail"), ({"limits": {"user_interactions.volume": {"medium": 10, "high": 20}}}, "pass")])
def test_what_blocks_stands_at_an_hour_without_a_baseline_as_long_as_it_exceeds_the_limits(own, expected):
    verdict, bad, findings = judged(a_profile(), own=own, held=HELD)["acme"]
    assert (verdict, list(bad)) == (expected, ["user_interactions.volume"] if bad else [])
    assert "what was found at 2026-03-04 06:00 UTC stands" in findings["user_interactions.volume"]["note"]
    assert to_hold(findings.values(), HELD, NOW) == (HELD if bad else {})


def test_what_blocks_is_judged_anew_where_there_is_a_baseline_and_held_where_there_is_no_answer():
    known, unread = a_profile(), a_profile()
    unread.troubles["interactions_recent"] = Trouble("table_locked", "user_interactions", "user_interactions was locked")
    usual = {"user_interactions.rows_day": weeks(190, 210, 200, 205, 195)}
    verdict, bad, findings = judged(known, samples=usual, held=HELD)["acme"]
    assert (verdict, bad, to_hold(findings.values(), HELD, NOW)) == ("pass", {}, {})
    verdict, bad, findings = judged(unread, samples=usual, held=HELD)["acme"]
    assert (verdict, bad, to_hold(findings.values(), HELD, NOW)) == ("error", {}, HELD)


def test_items_of_a_tenant_that_does_not_exist_are_orphans():
    profile = a_profile()
    profile.known = False
    assert judged(profile)["acme"][1] == {"items.tenant": "high"}


def test_every_check_has_a_name_of_its_own_and_a_sentence():
    assert len(CHECKS) == sum(len(suite) for suite in SUITES.values())
    assert all(check.title and check.suite in SUITES for check in CHECKS.values())


def spoilt(check):
    """A profile in which this check alone does not hold, as badly as can be."""
    if check.kind == "defects":
        return replace(a_profile(), shape={table: Difference(missing=["x"] if table == check.table else []) for table in TABLES})
    if check.number == "items.without_tenant":
        return replace(a_profile(), known=False)
    return a_profile(**{check.number: {"share": GOOD.get(check.of, 0) // 2, "age": 1e9, "unusual": 10_000}[check.kind]})


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_fails_alone_on_the_number_it_looks_at(name):
    usual = {check.number: weeks(*(GOOD[check.number] + n for n in (-2, -1, 0, 1, 2))) for check in CHECKS.values() if check.kind == "unusual"}
    assert judged(a_profile(), samples=usual)["acme"][:2] == ("pass", {})
    verdict, bad, _ = judged(spoilt(CHECKS[name]), samples=usual)["acme"]
    assert bad == {name: CHECKS[name].worst}
    assert verdict == ("fail" if CHECKS[name].worst in BLOCKING else "warn")
