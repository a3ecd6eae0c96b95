"""Loads the named statements of this package's SQL files: `-- name(parameters): what it tells`."""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- (\w+)\([^)]*\): .*$", re.MULTILINE)
_FROM_THEN_ON = re.compile(r" and \(d\.since is null or (\w\.created_at) >= d\.since\)")


@cache
def statements(file: str) -> dict[str, str]:
    """Each statement of `file` by its name."""
    parts = _HEAD.split(Path(__file__).with_name(file).read_text())
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def statement(name: str, *, incremental: bool) -> str:
    """A pass of the profile over everything, or over the rows that are new since the last tick, in words that an index serves."""
    due, body = statements("profile.sql")["due"], statements("profile.sql")[name]
    body = _FROM_THEN_ON.sub(r" and \1 >= d.since and \1 >= $4::timestamptz" if incremental else "", body)
    return f"{due}, {body.removeprefix('with ')}" if body.startswith("with ") else f"{due}\n{body}"
