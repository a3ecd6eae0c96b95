"""What counts as healthy for one tenant: the installation's limits with the tenant's own over them, and the checks it switched off."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expectations.suites import CHECKS, Check

Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The installation's limits (settings `quality`)."""

    types: tuple[str, ...] = ("view", "click", "purchase", "like", "share")
    tolerated_percent: float = 0
    high_percent: float = 1
    unusual: float = 3
    very_unusual: float = 5
    warm_up: int = 4
    ages: Mapping[str, timedelta] = field(
        default_factory=lambda: {
            "interactions_within": timedelta(hours=24),
            "items_within": timedelta(days=7),
            "training_within": timedelta(hours=24),
        }
    )


class Own(BaseModel):
    """One check's limits as a tenant sets them: percent for shares, hours for ages, z-scores for unusual numbers."""

    model_config = ConfigDict(extra="forbid")
    medium: Annotated[float, Field(ge=0)] | None = None
    high: Annotated[float, Field(ge=0)] | None = None


class TenantQuality(BaseModel):
    """The part `quality` of a tenant's settings."""

    model_config = ConfigDict(extra="ignore")
    off: frozenset[str] = frozenset()
    limits: dict[str, Own] = Field(default_factory=dict)
    interaction_types: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] | None = None
    on_gate: Literal["on", "off"] | None = Field(default=None, alias="gate")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Above `medium` a check fails, above `high` it fails badly. `strict`: exactly the limit fails too."""

    medium: float | None
    high: float | None
    strict: bool = False


def read_own(settings: Mapping[str, object]) -> TenantQuality:
    """A tenant's own limits; what cannot be read counts as not said."""
    try:
        return TenantQuality.model_validate(settings.get("quality") or {})
    except ValidationError:
        return TenantQuality()


def bounds(check: Check, limits: Limits, own: TenantQuality) -> Bounds | None:
    """The limits of this check for this tenant; None when it is switched off."""
    if check.name in own.off:
        return None
    mine = own.limits.get(check.name, Own())
    if check.kind == "age":
        hours = mine.high if mine.high is not None else mine.medium
        limit = hours if hours is not None else limits.ages[check.limit].total_seconds() / 3600
        return Bounds(limit, limit if check.worst == "high" else None, strict=True)
    if check.kind == "defects":
        return Bounds(0, 0 if check.worst == "high" else None)
    medium, high = (limits.unusual, limits.very_unusual) if check.kind == "unusual" else (limits.tolerated_percent, limits.high_percent)
    medium, high = _or(mine.medium, medium), _or(mine.high, high)
    return Bounds(medium, max(medium, high) if check.worst == "high" else None)


def origin(check: Check, own: TenantQuality) -> str:
    """Where this check's limits come from, for whoever wonders."""
    if check.name in own.off or check.name in own.limits:
        return "tenant"
    settings = {"share": "tolerated_percent, high_percent", "unusual": "unusual, very_unusual", "age": check.limit}
    return f"setting quality.{settings[check.kind]}" if check.kind in settings else "fixed"


def problem(quality: Mapping[str, object], limits: Limits) -> str | None:
    """Why a tenant's part `quality` makes no sense, in a sentence; None when it does."""
    try:
        own = TenantQuality.model_validate(quality)
    except ValidationError as error:
        part = error.errors(include_url=False, include_input=False)[0]
        return f"quality.{'.'.join(map(str, part['loc']))}: {part['msg']}"
    if unknown := sorted((own.off | set(own.limits)) - set(CHECKS)):
        return f"there is no check {unknown[0][:80]}; `tidemill quality checks` lists them"
    for name, mine in own.limits.items():
        if why := _wrong(CHECKS[name], mine, limits):
            return f"{name}: {why}"
    return None


def _wrong(check: Check, mine: Own, limits: Limits) -> str | None:
    if check.kind == "defects":
        return "a table is as declared or it is not; there is no limit, but it can be switched off"
    if check.kind == "age":
        return "an age has one limit" if mine.medium is not None and mine.high is not None else None
    if check.kind == "share" and max(_or(mine.medium, 0), _or(mine.high, 0)) > 100:
        return "a share is at most 100 %"
    if check.worst != "high" and mine.high is not None:
        return "it never blocks training, so it has one limit"
    found = bounds(check, limits, TenantQuality(limits={check.name: Own(medium=mine.medium)}))
    medium = found.medium if found else None
    if mine.high is not None and medium is not None and mine.high < medium:
        return f"what blocks training ({mine.high:g}) lies below what is told ({medium:g})"
    return None


def _or(mine: float | None, others: float) -> float:
    return others if mine is None else mine
