"""What may be set per tenant, over which defaults, and where each value comes from."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from streams.settings import Settings


class Dispatch(BaseModel):
    """How a tenant's ready work is put in order with that of others."""

    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Field(gt=0, le=100)] = 1
    """Its share of the turns, when there is more to do than workers do."""
    priority: Literal["high", "normal", "low"] = "normal"
    """All that is high goes before all that is normal."""
    concurrent: PositiveInt | None = None
    """Steps in hand or waiting for a job at a time; none: as many as there are."""
    per_hour: PositiveInt | None = None
    """Runs begun within an hour; none: as many as are asked for."""


class TenantSettings(BaseModel):
    """A tenant's own settings; `quality` is what the checks know of (`interaction_types` and their like)."""

    model_config = ConfigDict(extra="forbid")

    dispatch: Dispatch = Dispatch()
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
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    result = {section: values for section, values in result.items() if values}
    try:
        TenantSettings.model_validate(result)
    except ValidationError as error:
        part = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, part['loc']))}: {part['msg']}") from None
    return result


def layered(own: dict[str, Any], settings: Settings) -> list[Setting]:
    """Every setting that a tenant may have, with the value that holds and its origin."""
    dispatch, quality = own.get("dispatch", {}), own.get("quality", {})
    found = [
        Setting(f"dispatch.{name}", dispatch.get(name, field.default), "tenant" if name in dispatch else "default")
        for name, field in Dispatch.model_fields.items()
    ]
    types = quality.get("interaction_types", list(settings.quality.interaction_types))
    found.append(Setting("quality.interaction_types", types, "tenant" if "interaction_types" in quality else "setting quality.interaction_types"))
    return found + [Setting(f"quality.{name}", value, "tenant") for name, value in quality.items() if name != "interaction_types"]
