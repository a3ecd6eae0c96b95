"""Ten years of schedules in many zones, with stops and clock jumps drawn at random: the policy holds to the slot."""

import random
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest

from streams.schedule import Rule, missed, next_due

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata", "Africa/Cairo", "Pacific/Apia")
CRONS = ("0 2 * * *", "30 2 * * *", "0 0,6,12,18 * * *", "0 0 29 2 *", "15 1 * * 1")
BEGIN, END = datetime(2024, 1, 1, 0, 0, 30, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
PROMPT = timedelta(minutes=1)


def live(rule: Rule, seed: int) -> tuple[list[datetime], list[tuple[datetime, datetime]]]:
    """What a worker fires that looks each second, stops now and then and whose clock jumps; and the (first due time missed, next look) of its gaps.

    Between two stops it looks exactly at the due times: looking in between changes nothing.
    """
    chance, now, fired, gaps = random.Random(seed), BEGIN, [], []
    due = next_due(rule, now)
    while due is not None and now < END:
        kind = chance.random()
        before = now
        if kind < 0.7:
            now = max(now, due)  # the next look that matters
        elif kind < 0.9:
            now = max(now, due) + timedelta(seconds=chance.randrange(2, 5 * 86_400))  # a stop, over at least one due time
        elif kind < 0.95:
            now += timedelta(hours=6)
        else:
            now -= timedelta(hours=2)
        if now > due:
            gaps.append((due, now))
        times, due = missed(rule, due, now)
        fired += times
        now = max(now, before)  # after a jump back the clock catches up
    return fired, gaps


@pytest.mark.timeout(60)
@pytest.mark.parametrize("policy", ["skip", "latest", "all"])
@pytest.mark.parametrize("cron", CRONS)
def test_ten_years_keep_the_policy_to_the_slot(cron: str, policy: str) -> None:
    place = CRONS.index(cron) * 3 + len(policy)
    for seed in range(place, place + 2):  # two zones a test; together they come through all
        zone = ZONES[seed % len(ZONES)]
        rule = Rule(cron, zone, missed=policy, catch_up=timedelta(days=3))
        fired, gaps = live(rule, seed)
        assert len(fired) == len(set(fired)), "a slot fired twice"
        assert fired == sorted(fired)
        due = list(takewhile(lambda time: time < END, rule.after(BEGIN)))
        wanted = set(due)
        for begin, end in gaps:
            low, high = bisect_left(due, begin), bisect_right(due, end)
            lost = due[low:high]
            fresh = [time for time in lost if time >= end - rule.catch_up]
            keeps = {"all": fresh, "latest": fresh[-1:], "skip": [time for time in fresh[-1:] if time >= end - PROMPT]}[policy]
            wanted -= set(lost) - set(keeps)
        last = END - timedelta(days=10)  # the last stop may reach over the end
        assert [time for time in fired if time <= last] == sorted(time for time in wanted if time <= last), (zone, seed)
