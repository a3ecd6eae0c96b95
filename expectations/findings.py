"""From a profile to findings: the numbers that go to the judge, and what its answer makes of each check and of the tenant."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from expectations import baseline
from expectations.judge import NOT_ASKED, Question, Row
from expectations.limits import Bounds, Limits, TenantQuality, bounds
from expectations.profile import Profile
from expectations.suites import BLOCKING, CHECKS, MEASUREMENT, SEVERITIES, SUITES, Check, Severity

Verdict = Literal["pass", "warn", "fail", "error"]
Finding = dict[str, Any]
"""{check, suite, table, status pass|fail|error|learning|off, value, and what there is of: severity, limit, high, count, of, usual, code, note}"""
Samples = Mapping[str, Mapping[str, float]]
"""Metric -> week -> value, of the hour of the week in question."""
Held = Mapping[str, Finding]
"""Check -> {value, count, usual, at}: what was last found so unusual that it blocks, for hours at which nobody knows what is usual."""


@dataclass(frozen=True, slots=True)
class Case:
    """A tenant before the judge: its findings so far, and the values that the suites look at."""

    profile: Profile
    findings: dict[str, Finding]
    row: Row


def prepare(profile: Profile, samples: Samples, limits: Limits, own: TenantQuality, now: datetime, held: Held | None = None) -> Case:
    """What is known of a tenant without judging: values, limits, and which checks cannot or need not be asked."""
    findings: dict[str, Finding] = {}
    row: Row = {"tenant_id": profile.tenant_id}
    for check in CHECKS.values():
        finding, value, limit = _prepare_one(check, profile, samples, limits, own, now, (held or {}).get(check.name))
        findings[check.name] = finding
        asked = limit is not None and value is not None
        medium, high = _LEVELS[check.name]
        row[check.name] = value if asked else NOT_ASKED
        row[medium] = _number(limit.medium) if asked and limit else NOT_ASKED
        row[high] = _number(limit.high) if asked and limit else NOT_ASKED
    return Case(profile, findings, row)


QUESTIONS = {suite: [Question(check.name, check.kind == "age") for check in checks] for suite, checks in SUITES.items()}
"""The suites as the judge takes them."""
_LEVELS = {check: (f"{check} medium", f"{check} high") for check in CHECKS}
"""Check -> the names of its limits in a row: the same strings for everybody, which are sent to the judge once."""


def conclude(case: Case, failed: Mapping[str, str], unjudged: str | None = None) -> tuple[Verdict, list[Finding]]:
    """The verdict and all findings; `failed`: check -> level, as the judge found them; `unjudged`: why there was no judge."""
    if unjudged:
        for finding in case.findings.values():
            if finding["status"] == "pass":
                finding |= {"status": "error", "code": "judge_died", "note": unjudged}
    for name, level in failed.items():
        worst = CHECKS[name].worst
        case.findings[name] |= {"status": "fail", "severity": worst if level == "high" else "medium"}
    findings = [_tidy(finding) for finding in case.findings.values()]
    findings.append(_measurement(case.profile, findings))
    return verdict(findings), findings


def unwatched(checks: Iterable[str]) -> list[Finding]:
    """What becomes of the incidents of these checks, as far as they are about data, once nobody watches the tenant's any more."""
    return [
        {"check": name, "title": CHECKS[name].title if name in CHECKS else "everything could be measured", "status": "gone"}
        for name in checks
        if name in CHECKS or name == MEASUREMENT
    ]


def verdict(findings: Sequence[Finding]) -> Verdict:
    """fail before error before warn before pass; an error where a check that blocks has no answer."""
    failing = [finding for finding in findings if finding["status"] == "fail"]
    if any(finding["severity"] in BLOCKING for finding in failing):
        return "fail"
    unknown = [finding for finding in findings if finding["status"] == "error"]
    if any(_gravest(finding) in BLOCKING for finding in unknown):
        return "error"
    return "warn" if failing or unknown else "pass"


def _gravest(finding: Finding) -> Severity:
    """What an unanswered check might have come to: one that never blocks does not block unanswered."""
    check = CHECKS.get(finding["check"])
    return check.worst if check else finding["severity"]


def to_learn(case: Case) -> dict[str, float]:
    """What the baselines take from this tick."""
    metrics = {check.number for check in CHECKS.values() if check.kind == "unusual"}
    return {metric: float(value) for metric in metrics if (value := case.profile.get(metric)) is not None}


def to_hold(findings: Iterable[Finding], before: Held, now: datetime) -> dict[str, Finding]:
    """What the next tick holds on to at an hour without a baseline: only a judgement, or switching the check off, ends it."""
    held = {}
    for finding in findings:
        name, status = finding["check"], finding["status"]
        if status == "fail" and "usual" in finding and finding["severity"] in BLOCKING:
            held[name] = {fact: finding[fact] for fact in ("value", "count", "usual")} | {"at": finding.get("as_of", now.isoformat())}
        elif status in ("error", "learning") and name in before:
            held[name] = before[name]
    return held


def _prepare_one(
    check: Check, profile: Profile, samples: Samples, limits: Limits, own: TenantQuality, now: datetime, held: Finding | None
) -> tuple[Finding, float | None, Bounds | None]:
    finding: Finding = {"check": check.name, "suite": check.suite, "table": check.table, "title": check.title, "status": "pass"}
    if check.unit:
        finding["unit"] = check.unit
    limit = bounds(check, limits, own)
    if limit is None:
        return finding | {"status": "off"}, None, None
    finding |= {"limit": limit.medium, "high": limit.high}
    why = next((profile.troubles[name] for name in check.needs if name in profile.troubles), None)
    if why is None and check.kind == "defects" and not profile.shape:
        why = profile.troubles.get("tenants")
    if why is not None:
        return finding | {"status": "error", "code": why.code, "note": why.sentence}, None, None
    value, facts = _VALUES[check.kind](check, profile, samples, limits, now)
    if value is None and held:
        value, facts = _as_found(held, facts["note"])
    return finding | facts, value, limit


def _share(check: Check, profile: Profile, samples: Samples, limits: Limits, now: datetime) -> tuple[float, Finding]:
    rows = int(profile.get(check.of) or 0)
    homeless = 0 if profile.known else rows
    count = homeless if check.number == "items.without_tenant" else int(profile.get(check.number) or 0)
    percent = 100 * count / rows if rows else 0.0
    facts: Finding = {"value": round(percent, 4), "count": count, "of": rows}
    if check.name == "user_interactions.types":
        facts["kinds"] = profile.details.get("user_interactions.types", {})  # of the rows that were read, the twenty most frequent
    if check.name == "user_interactions.types" and count:
        facts["note"] = "not allowed: " + ", ".join(sorted(profile.details.get("user_interactions.invalid_types", {}))[:10])
    return percent, facts


def _age(check: Check, profile: Profile, samples: Samples, limits: Limits, now: datetime) -> tuple[float, Finding]:
    seconds = profile.get(check.number)
    if seconds is None:
        return math.inf, {"value": None, "note": f"{check.table} has no row of this tenant to be fresh"}
    return seconds / 3600, {"value": round(seconds / 3600, 3)}


def _defects(check: Check, profile: Profile, samples: Samples, limits: Limits, now: datetime) -> tuple[float, Finding]:
    found = profile.shape[check.table]
    if not found.there:
        return float(found.defects), {"value": found.defects, "code": "table_missing", "note": f"{check.table} is not there"}
    lines = [*(f"{column} is missing" for column in found.missing), *found.wrong]
    facts: Finding = {"value": found.defects}
    if lines:
        facts |= {"code": "column_missing" if found.missing else "column_type", "note": "; ".join(lines)}
    return float(found.defects), facts | ({"extra": found.extra} if found.extra else {})


def _unusual(check: Check, profile: Profile, samples: Samples, limits: Limits, now: datetime) -> tuple[float | None, Finding]:
    number = float(profile.get(check.number) or 0)
    score, usual, weeks = baseline.judge(number, samples.get(check.number, {}), now, limits.warm_up)
    if score is None:
        return None, {"status": "learning", "value": None, "count": number, "note": f"week {weeks} of {limits.warm_up} at this hour of the week"}
    return abs(score), {"value": score, "count": number, "usual": usual}


def _as_found(held: Finding, learning: str) -> tuple[float, Finding]:
    """An hour without a baseline says nothing, and lifts nothing: the number found last is judged again."""
    note = f"{learning}: not to be judged now, so what was found at {held['at'][:16].replace('T', ' ')} UTC stands"
    return abs(held["value"]), {fact: held[fact] for fact in ("value", "count", "usual")} | {"note": note, "as_of": held["at"]}


_VALUES: dict[str, Any] = {"share": _share, "age": _age, "defects": _defects, "unusual": _unusual}


def _measurement(profile: Profile, findings: Sequence[Finding]) -> Finding:
    """One finding for all that could not be measured, so that one cause is one incident."""
    finding: Finding = {"check": MEASUREMENT, "suite": MEASUREMENT, "table": "", "title": "everything could be measured", "status": "pass"}
    unknown = [each for each in findings if each["status"] == "error"]
    if not unknown:
        return finding
    causes = {why.code: why.sentence for why in profile.troubles.values()}
    code = next(iter(causes), unknown[0]["code"])
    note = "; ".join(dict.fromkeys(causes.values())) or unknown[0]["note"]
    severity = max((_gravest(each) for each in unknown), key=SEVERITIES.index)
    return finding | {"status": "error", "severity": severity, "code": code, "count": len(unknown), "note": note[:1000]}


def _number(value: float | None) -> float:
    return NOT_ASKED if value is None else value


def _tidy(finding: Finding) -> Finding:
    """Without what is not known; `value` stays, for whoever draws it."""
    return {name: value for name, value in finding.items() if value is not None or name == "value"}
