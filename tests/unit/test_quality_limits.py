"""A tenant's own limits: how they are set by name, what is refused, and where each comes from."""

import pytest

from expectations.limits import Limits, origin, problem, read_own
from expectations.suites import CHECKS
from streams.cli.quality_limits import _changes as typed
from streams.cli.refusal import CliError
from streams.settings import Settings
from streams.tenant_settings import changed, layered

UNIQUE = "user_interactions.unique"


def test_limits_and_switches_are_set_and_taken_back_one_by_one():
    own = changed({}, {f"quality.limits.{UNIQUE}.medium": 0.5, f"quality.limits.{UNIQUE}.high": 2, "quality.off.items.fresh": True})
    assert own == {"quality": {"limits": {UNIQUE: {"medium": 0.5, "high": 2}}, "off": ["items.fresh"]}}
    own = changed(own, {f"quality.limits.{UNIQUE}.high": None})
    assert own["quality"]["limits"] == {UNIQUE: {"medium": 0.5}}
    assert changed(own, {f"quality.limits.{UNIQUE}.medium": None, "quality.off.items.fresh": None}) == {}


def test_a_tenants_settings_show_its_limits_by_name_and_as_its_own():
    own = changed({}, {f"quality.limits.{UNIQUE}.medium": 0.5, "quality.off.items.fresh": True})
    shown = {each.name: (each.value, each.origin) for each in layered(own, Settings()) if each.name.startswith("quality.")}
    assert shown[f"quality.limits.{UNIQUE}.medium"] == (0.5, "tenant")
    assert shown["quality.off.items.fresh"] == (True, "tenant")
    assert shown["quality.interaction_types"][1] == "setting quality.interaction_types"


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        ({"off": ["items.taste"]}, "no check items.taste"),
        ({"limits": {"items.columns": {"medium": 1}}}, "no limit"),
        ({"limits": {"items.fresh": {"medium": 5, "high": 9}}}, "one limit"),
        ({"limits": {"user_interactions.hour": {"medium": 3, "high": 9}}}, "never blocks"),
        ({"limits": {UNIQUE: {"medium": 120}}}, "at most 100"),
        ({"limits": {UNIQUE: {"medium": 5, "high": 2}}}, "lies below"),
        ({"limits": {UNIQUE: {"medium": -1}}}, "greater than or equal to 0"),
        ({"gate": "perhaps"}, "quality.gate"),
    ],
)
def test_limits_that_make_no_sense_are_refused_with_a_reason(quality, why):
    assert why in (problem(quality, Limits()) or "")


def test_limits_that_make_sense_are_taken():
    assert problem({"limits": {UNIQUE: {"medium": 0.5, "high": 2}, "items.fresh": {"medium": 48}}, "off": ["users.columns"]}, Limits()) is None


def test_each_limit_says_where_it_comes_from():
    own = read_own({"quality": {"limits": {UNIQUE: {"medium": 0.5}}}})
    assert origin(CHECKS[UNIQUE], own) == "tenant"
    assert origin(CHECKS["items.fresh"], own) == "setting quality.items_within"
    assert origin(CHECKS["users.columns"], own) == "fixed"


def test_what_is_typed_becomes_what_the_door_takes():
    said = typed([f"{UNIQUE}=0.5:2", "items.fresh=48"], ["users.columns"], ["items.future"], "view, buy", "off")
    assert said.by_name() == {
        "quality.limits.items.future.medium": None, "quality.limits.items.future.high": None, "quality.off.items.future": None,
        f"quality.limits.{UNIQUE}.medium": 0.5, f"quality.limits.{UNIQUE}.high": 2, "quality.limits.items.fresh.medium": 48,
        "quality.limits.items.fresh.high": None, "quality.off.users.columns": True, "quality.interaction_types": ["view", "buy"],
        "quality.gate": "off",
    }  # fmt: skip
    assert typed([], [], [], "", None).by_name() == {"quality.interaction_types": None}


@pytest.mark.parametrize("word", [UNIQUE, f"{UNIQUE}=", f"{UNIQUE}=1:", "=1", f"{UNIQUE}=much", f"{UNIQUE}=nan", f"{UNIQUE}=-1"])
def test_a_limit_that_cannot_be_read_is_refused(word):
    with pytest.raises(CliError, match="bad_limit"):
        typed([word], [], [], None, None)
