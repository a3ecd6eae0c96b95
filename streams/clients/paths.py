"""Whose path is this: every path a neighbour hands us is checked here before anything is read from it (DECISIONS 13)."""

import re
from typing import Literal

from streams.stage import GiveUp

_PLAIN = re.compile(r"[A-Za-z0-9._=/-]{1,900}")


def own_path(path: str, tenant_id: str, *, root: Literal["models", "indices"]) -> str:
    """`path` without its trailing slash, if it is a plain key below `{root}/{tenant_id}/`; else the run gives up as `foreign_path`."""
    own = f"{root}/{tenant_id}/"
    plain = _PLAIN.fullmatch(path) is not None and "//" not in path and ".." not in path
    if plain and path.startswith(own) and path.rstrip("/") + "/" != own:
        return path.rstrip("/")
    raise GiveUp(
        f"a path for {tenant_id} must lie below {own}, without '..', '//', '%' or scheme; the one received does not ({path[:100]!a}), "
        "and nothing was read from it: find out why the neighbour answered so, then `tidemill retry` the run",
        code="foreign_path",
    )
