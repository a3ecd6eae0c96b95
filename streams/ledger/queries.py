"""Loads the named statements of an SQL file beside it: `-- name(parameters): the question it answers`."""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- (\w+)\([^)]*\): .*$", re.MULTILINE)


@cache
def queries(file: str = "queries.sql") -> dict[str, str]:
    """Each statement by its name."""
    parts = _HEAD.split(Path(__file__).with_name(file).read_text())
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
