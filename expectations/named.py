"""Loads the named statements of this package's SQL files: `-- name(parameters): what it tells`."""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- (\w+)\([^)]*\): .*$", re.MULTILINE)
_READ = re.compile(r"from due d join (\w+) (\w) on \2\.tenant_id = d\.tenant_id and \(d\.since is null or \2\.created_at >= d\.since\)")
_WHOLE = r"from \1 \2 where \2.tenant_id = any (:tenants)"
_NEW = r"from due d join \1 \2 on \2.tenant_id = d.tenant_id and \2.created_at >= d.since and \2.created_at >= :earliest"
_LOOKED_UP = r"not exists \(select 1 from {} [^()]*\([^()]*\)[^()]*\)"
_NAMED = {
    ":tenants": "$1::text[]",
    ":earliest": "$4::timestamptz",
    ":settled": "$5::timestamptz",
    ":now": "$6::timestamptz",
    ":tolerance": "$7::interval",
}


@cache
def statements(file: str) -> dict[str, str]:
    """Each statement of `file` by its name."""
    parts = _HEAD.split(Path(__file__).with_name(file).read_text())
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def statement(name: str, *, incremental: bool, without: frozenset[str] = frozenset()) -> str:
    """A pass of the profile over everything, or over the rows that are new since the last tick; `without`: what it would look up in these tables."""
    due, body = statements("profile.sql")["due"], statements("profile.sql")[name]
    body = _READ.sub(_NEW if incremental else _WHOLE, body)
    for table in without:
        body = re.sub(_LOOKED_UP.format(table), "false", body)
    for word, parameter in _NAMED.items():
        body = re.sub(rf"(?<!:){word}\b", parameter, body)
    return f"{due}, {body.removeprefix('with ')}" if body.startswith("with ") else f"{due}\n{body}"
