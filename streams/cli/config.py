"""`tidemill config`, and the loading of settings for every verb: a wrong one is named, and no secret is shown."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streams.cli import out
from streams.cli.frame import USAGE, CliError, Json, settings

if TYPE_CHECKING:
    from streams.settings import Settings

PREFIX = "TIDEMILL_"
OTHERS = frozenset({"TIDEMILL_PYTHON"})
"""Variables of the scripts, which are no settings."""


def config(as_json: Json = False) -> None:
    """Show all settings in force, secrets hidden.

    Example: tidemill config --json
    """
    found = redacted(settings())
    out.show(found, as_json, lambda: out.table(("setting", "value"), _flat(found)))


def load() -> "Settings":
    """The settings; raises a sentence that names the wrong key and repeats no value."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from streams.settings import Settings

    _check_names(frozenset(Settings.model_fields))
    file = os.environ.get("TIDEMILL_CONFIG")
    if file and not Path(file).is_file():
        raise CliError("bad_setting", "TIDEMILL_CONFIG names a file that does not exist", USAGE)
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(_fault(part) for part in error.errors(include_url=False, include_context=False, include_input=False))
        raise CliError("bad_setting", f"{faults}. `tidemill config` shows the settings", USAGE) from None
    except tomllib.TOMLDecodeError as error:
        raise CliError("bad_setting", f"{file or 'tidemill.toml'} is not valid TOML: {error}", USAGE) from None
    except (SettingsError, KeyError) as error:
        name = re.search(r'field "(\w+)"', str(error))
        what = f"{PREFIX}{name[1].upper()} is not valid JSON" if name else "stack.json is not whole; start `tidemill up` again, or remove it"
        raise CliError("bad_setting", what, USAGE) from None


def _check_names(known: frozenset[str]) -> None:
    """pydantic-settings passes over variables it does not know; a misspelt one must not be believed."""
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name not in OTHERS and name.upper()[len(PREFIX) :].split("__")[0].lower() not in known:
            raise CliError("bad_setting", f"there is no setting {name}; `tidemill config` lists what there is", USAGE)


def _fault(part: Any) -> str:
    path = [str(step) for step in part["loc"]]
    variable = PREFIX + "__".join(path).upper()
    where = f"{'.'.join(path)} ({variable} or in a file)"
    return f"there is no setting {where}" if part["type"] == "extra_forbidden" else f"{where}: {part['msg'].partition(', unable')[0]}"


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
