"""How a page is written: templates with everything escaped, and the few words in which times, durations and states are said."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

NOTHING = "\u2013"
_SIGNS = {
    "✓": {"succeeded", "succeeded_with_warnings", "done", "live", "ok", "alive"},
    "✗": {"failed", "timed_out", "down", "rejected"},
    "■": {"blocked", "cancelled", "superseded"},
    "▶": {"running", "cancelling"},
    "◷": {"waiting", "reserved"},
    "…": {"pending", "ready"},
    "↷": {"skipped"},
    "!": {"degraded", "open"},
}
_TONES = {
    "good": {"succeeded", "done", "live", "ok", "active", "alive"},
    "warn": {"succeeded_with_warnings", "skipped", "degraded", "blocked", "open", "suspended"},
    "bad": {"failed", "timed_out", "down", "rejected"},
    "busy": {"running", "cancelling", "waiting", "reserved"},
}


@cache
def _templates() -> Environment:
    made = Environment(loader=PackageLoader("streams.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = {"ago": ago, "label": label, "pretty": pretty, "seconds": seconds, "short": short, "sign": sign, "tone": tone, "utc": utc}
    made.filters |= filters
    return made


def page(template: str, *, status: int = 200, **facts: Any) -> HTMLResponse:
    """A page; `now` says ages by the ledger's clock when given."""
    facts.setdefault("now", datetime.now(UTC))
    return HTMLResponse(_templates().get_template(template).render(status=status, **facts), status_code=status, headers={"Cache-Control": "no-store"})


def seconds(value: float | None) -> str:
    """A duration as one says it: two units at most."""
    if value is None:
        return NOTHING
    value = max(0.0, value)
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s".replace(".0 s", " s")
    for unit, small, size in (("d", "h", 86_400), ("h", "min", 3600), ("min", "s", 60)):
        if value >= size:
            rest = int(value % size / (size / {"d": 24}.get(unit, 60)))
            return f"{int(value // size)} {unit} {rest} {small}" if rest else f"{int(value // size)} {unit}"
    raise AssertionError("a minute or more has a unit")


def ago(value: datetime | None, now: datetime) -> str:
    """How long ago, or how soon."""
    if value is None:
        return NOTHING
    past = (now - value).total_seconds()
    if abs(past) < 1:
        return "now"
    said = seconds(round(abs(past)))
    return f"{said} ago" if past > 0 else f"in {said}"


def utc(value: datetime | None) -> str:
    """The full time, for whoever points at an age."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC" if value else ""


def pretty(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()


def short(value: object) -> str:
    """The part of an id that one reads out; the CLI takes it too."""
    return str(value)[:8]


def label(state: str) -> str:
    return state.replace("_", " ")


def sign(state: str) -> str:
    return next((sign for sign, states in _SIGNS.items() if state in states), "·")


def tone(state: str) -> str:
    """The colour class of a state; the text beside it always says the same."""
    return next((name for name, states in _TONES.items() if state in states), "calm")
