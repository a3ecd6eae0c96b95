"""Loads the named statements of this package's SQL files: `-- name(parameters): what it tells`."""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- (\w+)\([^)]*\): .*$", re.MULTILINE)
_FROM_THEN_ON = re.compile(r"\(d\.since is null or (\w\.created_at >= d\.since)\)")


@cache
def statements(file: str) -> dict[str, str]:
    """Each statement of `file` by its name."""
    parts = _HEAD.split(Path(__file__).with_name(file).read_text())
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def statement(name: str, *, incremental: bool) -> str:
    """A pass over everything, or over the rows that are new since the last tick, in words that an index serves."""
    text = statements("profile.sql")[name]
    return _FROM_THEN_ON.sub(r"\1", text) if incremental else text
