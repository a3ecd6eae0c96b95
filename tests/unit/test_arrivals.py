"""Whether data that arrived is worth a training now: each bound by itself, with the numbers in the reason."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streams.arrivals import Bounds, Listing, bounds_of, decide, span
from streams.settings import ArrivalSettings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOUNDS = Bounds(least_bytes=100, apart=timedelta(hours=6), per_day=2)
FOUND = Listing("now", {"old": 500, "new": 200})
GOOD = {
    **{"fingerprint": "now", "seen": "before", "asked": None, "known": ["old"], "paused": False, "open": False},
    **{"newest_run": None, "requested_at": NOW - timedelta(hours=7), "today": 0},
}


def answer(found: Listing = FOUND, **facts: Any) -> tuple[str, str]:
    decision = decide(GOOD | facts, found, BOUNDS, NOW)
    return decision.code, decision.reason


def test_enough_new_data_that_lies_still_is_asked_for_with_its_bytes():
    assert answer() == ("asked", "200 new bytes; the folder holds 2 files")


def test_everything_is_new_to_a_tenant_that_never_trained():
    assert answer(seen=None, known=None, requested_at=None) == ("asked", "700 new bytes; the folder holds 2 files")


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("nothing_new", {"seen": "now"}),
        ("asked_before", {"asked": "now"}),
        ("still_arriving", {"fingerprint": "other"}),
        ("too_little", {"known": ["old", "new"]}),
        ("paused", {"paused": True}),
        ("run_open", {"open": True, "newest_run": "7f3a0000-0000"}),
        ("too_soon", {"requested_at": NOW - timedelta(hours=5, minutes=30)}),
        ("day_full", {"today": 2}),
    ],
)
def test_each_thing_that_speaks_against_it_is_named(code: str, facts: dict[str, Any]):
    assert answer(**facts)[0] == code


def test_an_empty_folder_is_no_data():
    assert answer(Listing("empty", {}))[0] == "no_files"


def test_the_reason_says_the_numbers():
    said = answer(requested_at=NOW - timedelta(hours=5, minutes=30))[1]
    assert said.endswith("the last training was asked for 5 h 30 min ago; 6 h 0 min lie between two")


def test_a_tenants_own_bounds_go_over_the_platforms():
    bounds = bounds_of({"apart": "90m", "per_day": 9}, ArrivalSettings())
    assert bounds == Bounds(1 << 20, timedelta(minutes=90), 9)
    assert span(30) == timedelta(seconds=30)
