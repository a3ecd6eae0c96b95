"""The warm stage: nice to have, and nothing more."""

from datetime import timedelta

from agents import warm
from tests.unit.stages import RUN, a_house, deployed


async def test_the_top_items_of_the_new_version_are_asked_for():
    use = a_house()
    found = await warm(deployed(version=3), use)
    assert use.inference.warmed == [("acme", 3, 1000)]
    assert (found.items, found.version, found.run_id) == (1000, 3, RUN)


def test_a_run_does_not_fail_for_it_and_does_not_wait_long():
    assert not warm.critical
    assert (warm.retry.attempts, warm.retry.every) == (3, timedelta(seconds=2))
