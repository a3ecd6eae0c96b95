"""A tenant's own limits of data quality: what people ask for by command or API, whether it makes sense, and how it is set."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.ledger.ledger import Answer, Ledger
from streams.ledger.reader import Reader
from streams.requests import refused
from streams.settings import Settings, load
from streams.tenant_settings import changed
from streams.tenants import change_tenant

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Check = Annotated[str, Field(min_length=1, max_length=200)]


class Limit(BaseModel):
    """Percent for shares, hours for ages, robust z-scores for unusual numbers; what is not given goes back to the installation's."""

    model_config = ConfigDict(extra="forbid")

    medium: Number | None = None
    """Told above."""
    high: Number | None = None
    """Blocks training above."""


class LimitChanges(BaseModel):
    """What is to change for a tenant; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    limits: dict[Check, Limit] = Field(default_factory=dict)
    off: list[Check] = Field(default_factory=list)
    """Checks that are switched off."""
    reset: list[Check] = Field(default_factory=list)
    """Checks that are on again, with the installation's limits."""
    interaction_types: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = None
    """The tenant's allowed types; none at all: the installation's again."""
    gate: Literal["on", "off"] | None = None
    """Whether verdicts may block the tenant's training."""

    def by_name(self) -> dict[str, Any]:
        """The same as changes of the tenant's settings."""
        changes: dict[str, Any] = {}
        for check in self.reset:
            changes |= {f"quality.limits.{check}.medium": None, f"quality.limits.{check}.high": None, f"quality.off.{check}": None}
        for check, limit in self.limits.items():
            changes |= {f"quality.limits.{check}.medium": limit.medium, f"quality.limits.{check}.high": limit.high}
        changes |= {f"quality.off.{check}": True for check in self.off}
        if self.interaction_types is not None:
            changes["quality.interaction_types"] = self.interaction_types or None
        if self.gate is not None:
            changes["quality.gate"] = self.gate
        return changes


async def set_limits(ledger: Ledger, reader: Reader, settings: Settings, tenant_id: str, wanted: LimitChanges, *, by: str) -> Answer:
    """Give a tenant limits of its own; the next verdict goes by them, and the tenant's journal says who did it. `result`: changed, or there."""
    changes = wanted.by_name()
    if not changes:
        return refused("nothing_named", sentence="say what is to change: limits, off, reset, interaction_types or gate")
    _, own = await reader.tenant_facts(tenant_id)
    if why := nonsense(settings, own, changes):
        return refused("bad_limit", sentence=why)
    return await change_tenant(ledger, tenant_id, name=None, owner=None, labels={}, settings=changes, by=by)


def nonsense(settings: Settings, own: dict[str, Any], changes: dict[str, Any]) -> str | None:
    """Why a tenant's limits would make no sense after these changes, in a sentence; None when they do."""
    try:
        after = changed(own, changes).get("quality", {})
    except ValueError as error:
        return str(error)
    why: str | None = load(settings.quality.tools).problem(settings, after)
    return why


def limits_of(settings: Settings, own: dict[str, Any]) -> list[dict[str, Any]]:
    """Every check with the limits that hold for a tenant with these settings of its own, and where they come from."""
    found: list[dict[str, Any]] = load(settings.quality.tools).checks(settings, own)
    return found
