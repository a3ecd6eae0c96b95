"""A tenant's own limits over HTTP: set, shown with their origin, refused with a reason, and gone by at the next verdict."""

import pytest

from tests.quality.data import a_tenant, load, spoil
from tests.web import web_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings
CHECKS = "/api/v1/quality/dirty/checks"
TYPES = "user_interactions.types"


async def test_limits_set_over_http_are_what_the_next_verdict_goes_by_until_they_are_taken_back(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    assert await world.verdict("dirty") == "fail"
    async with web_of(world) as web:
        said = await web.patch(CHECKS, json={"limits": {TYPES: {"medium": 30, "high": 60}}, "off": ["items.fresh"]})
        assert (said.status_code, said.json()) == (202, {"result": "changed", "tenant_id": "dirty"})
        assert (await web.patch(CHECKS, json={"off": ["items.fresh"]})).json()["result"] == "there"
        listed = {check["check"]: check for check in (await web.get(CHECKS)).json()}
        assert (listed[TYPES]["medium"], listed[TYPES]["high"], listed[TYPES]["origin"]) == (30, 60, "tenant")
        assert listed["items.fresh"]["off"]
        assert listed["user_interactions.fresh"]["origin"] == "setting quality.interactions_within"
        await world.tick("dirty")
        assert await world.verdict("dirty") == "pass"
        await web.patch(CHECKS, json={"reset": [TYPES, "items.fresh"]})
        assert {check["origin"] for check in (await web.get(CHECKS)).json()}.isdisjoint({"tenant"})
    await world.tick("dirty")
    assert await world.verdict("dirty") == "fail"
    changes = await world.rows("select data ->> 'by' as who from journal where kind = 'tenant_changed' and tenant_id = 'dirty'")
    assert [change["who"] for change in changes] == ["api", "api"]


@pytest.mark.parametrize(
    ("body", "status", "code", "why"),
    [
        ({"limits": {"items.taste": {"medium": 1}}}, 422, "bad_limit", "no check items.taste"),
        ({"limits": {TYPES: {"medium": 5, "high": 2}}}, 422, "bad_limit", "lies below"),
        ({"limits": {TYPES: {"medium": 500}}}, 422, "bad_limit", "at most 100"),
        ({"limits": {TYPES: {"medium": -1}}}, 422, "invalid", ""),
        ({"limit": {}}, 422, "invalid", ""),
        ({}, 422, "nothing_named", "say what is to change"),
    ],
    ids=["no such check", "blocks below told", "more than all", "negative", "misspelt", "nothing"],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_and_changes_nothing(world, body, status, code, why):
    await world.rows("insert into tenants (tenant_id) values ('dirty')")
    await world.rows("insert into tenant_heads (tenant_id) values ('dirty')")
    async with web_of(world) as web:
        said = await web.patch(CHECKS, json=body)
    assert said.status_code == status
    assert said.json()["code"] == code
    assert why in said.text
    [tenant] = await world.rows("select settings from tenants where tenant_id = 'dirty'")
    assert tenant["settings"] == "{}"


async def test_a_tenant_nobody_knows_has_no_limits(world):
    async with web_of(world) as web:
        for said in (await web.get(CHECKS), await web.patch(CHECKS, json={"gate": "off"})):
            assert (said.status_code, said.json()["code"]) == (404, "unknown_tenant")
