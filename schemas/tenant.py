"""Who a tenant is: the one rule for tenant ids, checked at every door before an id is used for anything."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

PATTERN = r"[a-z0-9][a-z0-9-]{1,62}"
ALL_TENANTS = "_all"
"""The reserved key of events that concern every tenant (`dq.tick` without a tenant); no tenant can be called so."""

_VALID = re.compile(PATTERN)


def is_tenant_id(text: object) -> bool:
    """Whether `text` may be used in keys, paths, SQL parameters, labels and URLs (`\\Z`: a trailing newline is refused)."""
    return isinstance(text, str) and _VALID.fullmatch(text) is not None


def _check(text: str) -> str:
    if not is_tenant_id(text):
        raise ValueError("a tenant id is 2 to 63 of a-z, 0-9 and '-', and starts with a letter or digit")
    return text


TenantId = Annotated[str, StringConstraints(max_length=63), AfterValidator(_check)]
"""A `str` that passed `is_tenant_id`."""
