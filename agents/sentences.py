"""What whoever is paged reads about a finding: a title of one line, and a message that says the number, the limit and what to do."""

from expectations.findings import Finding
from expectations.suites import CHECKS, MEASUREMENT

_UNITS = {"share": "%", "age": " h", "defects": "", "unusual": " sigma"}


def title(finding: Finding, kind: str) -> str:
    """The alert's headline."""
    what = "data could not be measured" if finding["check"] == MEASUREMENT else finding["title"]
    if finding["status"] == "gone":
        return f"Not watched any more: {what}"
    if kind == "resolved":
        return f"Resolved: {what}" if finding["check"] != MEASUREMENT else "Resolved: data can be measured again"
    return f"Not so: {what}" if finding["check"] != MEASUREMENT else what.capitalize()


def message(tenant: str, finding: Finding, kind: str) -> str:
    """The alert's text."""
    parts = [f"{tenant}, {finding['check']}: {numbers(finding)}"]
    if note := finding.get("note"):
        parts.append(note)
    if kind != "resolved":
        parts.append(f"See `tidemill quality show {tenant}`; mend the data, then `tidemill quality run {tenant}`")
    return ". ".join(parts)[:2000]


def numbers(finding: Finding) -> str:
    """The measured number beside its limit, in words."""
    if finding["status"] == "gone":
        return "the warehouse knows the tenant no longer, or never did, so nothing is measured"
    check = CHECKS.get(finding["check"])
    if check is None:
        return f"{finding['count']} checks have no answer" if finding.get("count") else "everything was measured"
    if finding["status"] == "off":
        return "switched off"
    unit = _UNITS[check.kind]
    value = "none" if finding.get("value") is None else f"{finding['value']:g}{unit}"
    if check.kind == "share":
        return f"{finding.get('count', 0)} of {finding.get('of', 0)} rows ({value}), tolerated are {finding['limit']:g}{unit}"
    if check.kind == "age":
        return f"the newest is {value} old, allowed are {finding['limit']:g}{unit}" if finding.get("value") is not None else "there is none at all"
    if check.kind == "unusual":
        return f"{finding.get('count', 0):g}, usual are {finding.get('usual', 0):g}: {value}, limit {finding['limit']:g}{unit}"
    return f"{value} columns differ"
