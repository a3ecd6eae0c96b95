"""The settings for every verb: a wrong one is named, and its value is not repeated."""

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.cli.refusal import USAGE, CliError

if TYPE_CHECKING:
    from streams.settings import Settings

PREFIX = "TIDEMILL_"
OTHERS = frozenset({"TIDEMILL_PYTHON"})
"""Variables of the scripts, which are no settings."""


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
