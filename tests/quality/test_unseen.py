"""What cannot be seen any more is never a pass, and what nobody watches any more has no open incident."""


import pytest

from tests.quality.data import a_tenant, load, spoil

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings

GONE = "drop table tenants, users, items, user_interactions, model_training_runs"


async def test_tables_that_are_all_gone_are_an_error_for_who_was_measured_and_nothing_for_who_never_was(world, tables):
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty")
    await world.run(await world.train("dirty"), state="blocked")
    await tables.execute(GONE)
    await world.tick("dirty", "new")
    await world.tick("dirty")  # an error in between does not make it unseen
    last = await world.use.quality.last_verdict("dirty")
    assert (last.watched, last.verdict) == (True, "error")
    found = await world.reader.tenant("dirty")
    assert next(check for check in found["checks"] if check["check"] == "measurement")["code"] == "tables_gone"
    assert not (await world.use.quality.last_verdict("new")).watched
    assert [run["state"] for run in await world.runs() if run["pipeline"] == "training"] == ["blocked"]
