"""What a tenant may set for itself: a value that the ledger or a look at all tenants cannot read is refused at the door."""

from typing import Any

import pytest

from streams.tenant_settings import changed

SPOILED = [
    ("dispatch.concurrent", 5.0), ("dispatch.concurrent", True), ("dispatch.concurrent", 3_000_000_000), ("dispatch.per_hour", 2**31 - 1),
    ("dispatch.burst", "5"), ("dispatch.weight", True), ("dispatch.weight", 1e-320), ("dispatch.weight", float("inf")), ("dispatch.weight", 10**400),
    ("arrivals.least_bytes", "5"), ("arrivals.per_day", True), ("arrivals.apart", "\u0663h"),
    ("absence.run_within", True), ("absence.run_within", "\u0663h"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SPOILED)
def test_a_setting_that_cannot_be_read_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}[.:]"):
        changed({}, {name: value})


def test_what_is_kept_is_what_was_checked() -> None:
    own = changed({}, {"arrivals.train": "yes", "dispatch.weight": 3, "absence.run_within": "48h", "arrivals.apart": 90})
    assert own == {"arrivals": {"train": True, "apart": 90}, "dispatch": {"weight": 3}, "absence": {"run_within": "48h"}}
