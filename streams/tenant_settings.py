"""What may be set per tenant, over which defaults, and where each value comes from."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from streams.settings import Settings

_SPAN = re.compile(r"[0-9]{1,6}[smhd]")


def _duration(value: float | str) -> float | str:
    """Seconds, or a number with its unit."""
    if (isinstance(value, str) and not _SPAN.fullmatch(value)) or (isinstance(value, float) and not 0 <= value <= 366 * 86_400):
        raise ValueError("is a number of seconds or a duration such as 90m or 48h")
    return value


def _bound(value: float | str) -> float | str:
    return value if value == "off" else _duration(value)


Span = Annotated[float, Strict()] | Annotated[str, Strict()]
Duration = Annotated[Span, AfterValidator(_duration)]
Bound = Annotated[Span, AfterValidator(_bound)]
"""A duration, or off."""
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
"""What the ledger reads as an integer; `true` is none."""


class Dispatch(BaseModel):
    """How a tenant's ready work is put in order with that of others."""

    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Strict(), Field(ge=0.01, le=100)] = 1
    """Its share of the turns, when there is more to do than workers do."""
    priority: Literal["high", "normal", "low"] = "normal"
    """All that is high goes before all that is normal."""
    concurrent: Count | None = None
    """Steps in hand or waiting for a job at a time; none: as many as there are."""
    per_hour: Count | None = None
    """Runs begun within an hour; none: as many as are asked for."""
    burst: Count | None = None
    """Runs begun within a minute; none: as many as the hour allows."""


class Absence(BaseModel):
    """How long something may be away before somebody is told: seconds, a duration such as 48h, or off."""

    model_config = ConfigDict(extra="forbid")

    training_within: Bound | None = None
    tick_within: Bound | None = None
    run_within: Bound | None = None


class Arrivals(BaseModel):
    """Whether the arrival of data lets the tenant train, and within which bounds."""

    model_config = ConfigDict(extra="forbid")

    train: bool = False
    least_bytes: Annotated[int, Strict(), Field(ge=1, le=1 << 60)] | None = None
    apart: Duration | None = None
    per_day: Count | None = None


class TenantSettings(BaseModel):
    """A tenant's own settings; `quality` is what the checks know of (`interaction_types` and their like)."""

    model_config = ConfigDict(extra="forbid")

    dispatch: Dispatch = Dispatch()
    absence: Absence = Absence()
    arrivals: Arrivals = Arrivals()
    quality: dict[str, Any] = Field(default_factory=dict)


class Setting(NamedTuple):
    """One setting of a tenant as it holds."""

    name: str
    value: Any
    origin: str
    """tenant, default, or the setting of the platform that it follows."""


def changed(own: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A tenant's settings after these changes by dotted name; None takes one away, so that the default holds. Raises `ValueError`."""
    result = {section: dict(values) for section, values in own.items()}
    for dotted, value in changes.items():
        section, _, name = dotted.partition(".")
        if not name:
            raise ValueError(f"{dotted}: a setting is named SECTION.NAME, such as dispatch.weight")
        values = result.setdefault(section, {})
        if section == "quality" and name.startswith(("limits.", "off.")):
            _change_check(values, name, value)
        elif value is None:
            values.pop(name, None)
        else:
            values[name] = value
    result = {section: values for section, values in result.items() if values}
    try:
        # what the ledger casts is what was checked, not what was typed: one value that it cannot read would stop every tenant's claims
        return TenantSettings.model_validate(result).model_dump(exclude_unset=True)
    except ValidationError as error:
        part = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, part['loc']))}: {part['msg']}") from None


def layered(own: dict[str, Any], settings: Settings) -> list[Setting]:
    """Every setting that a tenant may have, with the value that holds and its origin."""
    found = [_setting(own, "dispatch", name, field.default, "default") for name, field in Dispatch.model_fields.items()]
    found.append(_setting(own, "arrivals", "train", False, "default"))
    for section, names in (("absence", Absence.model_fields), ("arrivals", [name for name in Arrivals.model_fields if name != "train"])):
        group = getattr(settings, section)
        found += [_setting(own, section, name, _shown(getattr(group, name)), f"setting {section}.{name}") for name in names]
    types = list(settings.quality.interaction_types)
    found.append(_setting(own, "quality", "interaction_types", types, "setting quality.interaction_types"))
    quality = own.get("quality", {})
    found += [Setting(f"quality.off.{check}", True, "tenant") for check in quality.get("off", [])]
    found += [
        Setting(f"quality.limits.{check}.{level}", value, "tenant")
        for check, limits in quality.get("limits", {}).items()
        for level, value in limits.items()
    ]
    return found + [Setting(f"quality.{name}", quality[name], "tenant") for name in quality if name not in ("interaction_types", "off", "limits")]


def _change_check(quality: dict[str, Any], name: str, value: Any) -> None:
    """`limits.CHECK.medium`, `limits.CHECK.high` and `off.CHECK`; the names of checks have dots of their own."""
    what, _, rest = name.partition(".")
    if what == "off":
        off = set(quality.get("off", [])) - {rest} | ({rest} if value else set())
        left: Any = sorted(off)
    else:
        check, _, level = rest.rpartition(".")
        if not check:
            raise ValueError(f"quality.{name}: a limit is named quality.limits.CHECK.medium or quality.limits.CHECK.high")
        left = {other: dict(limits) for other, limits in quality.get("limits", {}).items()}
        mine = left.setdefault(check, {})
        mine.pop(level, None)
        mine |= {} if value is None else {level: value}
        left = {other: limits for other, limits in left.items() if limits}
    quality.pop(what, None)
    quality |= {what: left} if left else {}


def _setting(own: dict[str, Any], section: str, name: str, default: Any, origin: str) -> Setting:
    values = own.get(section, {})
    return Setting(f"{section}.{name}", values.get(name, default), "tenant" if name in values else origin)


def _shown(value: Any) -> Any:
    """A platform setting as a tenant would write it."""
    if value is None:
        return "off"
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value
