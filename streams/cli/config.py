"""`tidemill config`: every setting in force, and no secret shown."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streams.cli import out
from streams.cli.frame import Json, settings

if TYPE_CHECKING:
    from streams.settings import Settings


def config(as_json: Json = False) -> None:
    """Show all settings in force, secrets hidden.

    Example: tidemill config --json
    """
    found = redacted(settings())
    out.show(found, as_json, lambda: out.table(("setting", "value"), _flat(found)))


def redacted(settings: "Settings") -> dict[str, Any]:
    """Every setting in plain JSON; of addresses only what cannot be a secret."""
    from pydantic import SecretStr

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shown(inner) for name, inner in value.items()}
        if isinstance(value, SecretStr):
            return _address(value.get_secret_value())
        return _address(value) if isinstance(value, str) and "@" in value and "://" in value else value

    plain = shown(settings.model_dump())
    return dict(json.loads(out.to_json(plain)))


def _address(text: str) -> str:
    """An address without its password and options; anything else is hidden altogether."""
    try:
        parts = urlsplit(text)
        if not parts.scheme or not parts.hostname:
            return "***"
        user = f"{parts.username}:***@" if parts.password is not None and parts.username else "***@" if parts.password is not None else ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    return f"{parts.scheme}://{user or (f'{parts.username}@' if parts.username else '')}{parts.hostname}{port}{parts.path}"


def _flat(found: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in found.items():
        rows += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, "" if value is None else str(value))]
    return rows
