"""What somebody on call reads on a tenant's page: what is wrong, what it means for training, and what to type."""

from datetime import timedelta

import pytest

from streams.quality import allow
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
