"""Whose path is this: every key a neighbour reads or writes lies in the folder of the tenant it works for."""

import re
from typing import Annotated

from pydantic import StringConstraints

from reference.errors import Refused
from schemas.tenant import is_tenant_id

Path = Annotated[str, StringConstraints(min_length=1, max_length=900)]
_PLAIN = re.compile(r"[A-Za-z0-9._=/-]+")


def own_path(path: str, root: str, tenant_id: str) -> str:
    """`path` without its trailing slash, if it is a plain key below `{root}/{tenant_id}/`; else refused as `foreign_path`."""
    own = f"{root}/{tenant_id}/"
    plain = _PLAIN.fullmatch(path) is not None and "//" not in path and ".." not in path
    if not (plain and f"{path}/".startswith(own)):
        raise Refused(422, "foreign_path", f"a path for {tenant_id} starts with {own} and has no '..', '//', '%' or scheme")
    return path.rstrip("/")


def known_tenant(tenant_id: str) -> str:
    """`tenant_id` of a URL, if it is one."""
    if not is_tenant_id(tenant_id):
        raise Refused(404, "unknown_tenant", "no tenant has such an id")
    return tenant_id
