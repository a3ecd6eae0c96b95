"""What somebody on call reads on a tenant's page: what is wrong, what it means for training, and what to type."""

from datetime import timedelta

import pytest

from streams.quality import allow
from streams.tenants import delete_tenant, suspend_tenant
from tests.quality.data import a_tenant, load, spoil
from tests.web import web_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings


async def test_a_page_says_what_fails_what_it_means_for_training_and_what_to_type(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await load(tables, a_tenant("sound"))
    await world.tick("dirty", "sound")
    async with web_of(world) as web:

        async def read(tenant: str) -> str:
            answer = await web.get(f"/quality/{tenant}", headers={"Accept": "text/html"})
            assert answer.status_code == 200
            return answer.text

        page = await read("dirty")
        for said in (
            "Training is blocked",
            "tidemill quality run dirty",
            "tidemill quality allow dirty",
            "50 of 250",
            "every interaction type is allowed",
            "read: teleport 50, ",
        ):
            assert said in page
        assert page.index("user_interactions.types") < page.index("users.columns")  # what is wrong comes first
        assert "Training is" not in await read("sound")
        await allow(world.ledger, world.pipelines, "dirty", reason="known, harmless", by="ann", hold=timedelta(hours=2))
        assert "known, harmless (ann)" in await read("dirty")
        world.later(3)
        assert "Training is blocked" in await read("dirty")
        await web.patch("/api/v1/quality/dirty/checks", json={"gate": "off"})
        assert "the gate is off for this tenant" in await read("dirty")


async def test_of_all_tenants_a_deleted_one_is_left_out_and_a_suspended_one_lies_below(world, tables):
    for tenant in ("dirty", "gone", "sound"):
        await load(tables, a_tenant(tenant) if tenant == "sound" else spoil(a_tenant(tenant), kinds=50))
    await world.tick("dirty", "gone", "sound")
    assert [each["tenant_id"] for each in await world.reader.tenants()] == ["dirty", "gone", "sound"]
    await suspend_tenant(world.ledger, world.pipelines, "dirty", by="ann")
    await delete_tenant(world.ledger, world.pipelines, "gone", by="ann")
    async with web_of(world) as web:
        listed = (await web.get("/api/v1/quality")).json()
        page = (await web.get("/quality", headers={"Accept": "text/html"})).text
    assert [(each["tenant_id"], each["status"]) for each in listed] == [("sound", "active"), ("dirty", "suspended")]
    assert page.index("/quality/sound") < page.index("/quality/dirty") < page.index(">suspended<")
    assert "/quality/gone" not in page
