"""When schedules are due: time zones, missed times, windows."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

import pytest

from streams.schedule import MOST_MISSED, BadSchedule, Rule, missed, next_due, preview


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_daily_schedule_is_due_at_two() -> None:
    rule = Rule("0 2 * * *")
    assert next_due(rule, at("2026-03-01T01:59:59")) == at("2026-03-01T02:00")
    assert next_due(rule, at("2026-03-01T02:00:00")) == at("2026-03-02T02:00")


def test_a_quality_day_has_four_ticks() -> None:
    day = [due.hour for due in islice(Rule("0 0,6,12,18 * * *").after(at("2026-05-05T00:00") - timedelta(seconds=1)), 4)]
    assert day == [0, 6, 12, 18]


def test_after_three_days_of_standstill_each_policy_does_what_it_says() -> None:
    due, now = at("2026-03-01T02:00"), at("2026-03-04T03:00")

    def fired(policy: str, window: timedelta = timedelta(days=30)) -> list[int]:
        times, following = missed(Rule("0 2 * * *", missed=policy, catch_up=window), due, now)
        assert following == at("2026-03-05T02:00")
        return [time.day for time in times]

    assert fired("all") == [1, 2, 3, 4]
    assert fired("latest") == [4]
    assert fired("skip") == []
    assert fired("all", timedelta(days=2)) == [3, 4]


@pytest.mark.parametrize("policy", ["all", "latest", "skip"])
def test_a_time_that_is_due_just_now_fires_under_every_policy(policy: str) -> None:
    times, _ = missed(Rule("0 2 * * *", missed=policy), at("2026-03-01T02:00"), at("2026-03-01T02:00:01"))
    assert times == [at("2026-03-01T02:00")]


@pytest.mark.parametrize(("policy", "count"), [("all", 1440), ("latest", 1), ("skip", 1)])
def test_after_a_long_stop_a_schedule_of_each_minute_loses_its_oldest_times(policy: str, count: int) -> None:
    due, now = at("2026-03-01T00:00"), at("2026-03-08T12:00:05")
    times, following = missed(Rule("* * * * *", missed=policy), due, now)
    assert (times[-1], following) == (at("2026-03-08T12:00"), at("2026-03-08T12:01"))
    assert len(times) == count


def test_of_more_times_than_are_made_up_for_the_newest_fire() -> None:
    due, now = at("2026-03-01T00:00"), at("2026-03-20T00:00:05")
    times, _ = missed(Rule("* * * * *", missed="all", catch_up=timedelta(days=30)), due, now)
    assert (len(times), times[-1]) == (MOST_MISSED, at("2026-03-20T00:00"))


def test_a_clock_that_jumps_back_fires_nothing_again() -> None:
    assert missed(Rule("0 2 * * *"), at("2026-03-02T02:00"), at("2026-03-01T23:00")) == ([], at("2026-03-02T02:00"))


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-03-29"),
        ("America/New_York", "2026-03-08"),
        ("Australia/Lord_Howe", "2026-10-04"),
        ("America/Santiago", "2026-09-06"),
        ("Africa/Cairo", "2026-04-24"),
        ("Asia/Beirut", "2026-03-29"),
        ("Europe/London", "2026-10-25"),
        ("America/Havana", "2026-11-01"),
        ("Pacific/Auckland", "2026-09-27"),
        ("Asia/Kolkata", "2026-06-01"),
        ("Pacific/Apia", "2026-06-01"),
        ("America/St_Johns", "2026-11-01"),
    ],
)
@pytest.mark.parametrize("hour", range(4))
def test_a_daily_schedule_fires_once_a_day_over_every_daylight_saving_step(zone: str, day: str, hour: int) -> None:
    middle = at(f"{day}T12:00")
    fires = list(islice(Rule(f"30 {hour} * * *", zone).after(middle - timedelta(days=5)), 10))
    gaps = [(later - earlier) / timedelta(hours=1) for earlier, later in pairwise(fires)]
    assert all(22.4 <= gap <= 25.6 for gap in gaps), (fires, gaps)
    assert len(set(fires)) == 10


def test_the_leap_day_comes_every_four_years() -> None:
    fires = list(islice(Rule("0 0 29 2 *").after(at("2026-01-01T00:00")), 2))
    assert [(due.year, due.month, due.day) for due in fires] == [(2028, 2, 29), (2032, 2, 29)]


def test_a_schedule_is_quiet_before_its_start_and_after_its_end() -> None:
    rule = Rule("0 * * * *", starts_at=at("2026-05-01T00:00"), ends_at=at("2026-05-01T02:00"))
    assert [due.hour for due in rule.after(at("2026-01-01T00:00"))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (Rule("every day"), "cron"),
        (Rule("0 25 * * *"), "cron"),
        (Rule("*/10 * * * * *"), "cron"),
        (Rule("0 2 * *"), "cron"),
        (Rule("0 2 * * *", "Mars/Base"), "zone"),
        (Rule("0 2 * * *", "../etc"), "zone"),
        (Rule("0 2 * * *", starts_at=at("0001-01-01T00:00")), "starts_at"),
        (Rule("0 2 * * *", starts_at=at("9999-12-31T23:59")), "starts_at"),
        (Rule("0 2 * * *", ends_at=at("0001-01-01T00:00")), "ends_at"),
        (Rule("0 2 * * *", ends_at=at("9999-12-31T23:59")), "ends_at"),
    ],
)
def test_what_nobody_can_follow_is_refused_by_its_field(rule: Rule, field: str) -> None:
    with pytest.raises(BadSchedule) as refused:
        rule.check()
    assert refused.value.field == field


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_start_that_was_let_in_once_is_named_by_the_preview(year: str) -> None:
    with pytest.raises(BadSchedule, match="2000 to 2199"):
        preview(Rule("0 2 * * *", "Asia/Tokyo", starts_at=at(f"{year}-12-31T23:59")), at("2026-01-01T00:00"), 5)


@pytest.mark.parametrize("end", [at("9999-12-31T23:59"), at("9999-12-31T23:59").replace(tzinfo=None)])
def test_an_end_that_never_comes_does_not_keep_a_schedule_from_firing(end: datetime) -> None:
    [fire] = preview(Rule("0 2 * * *", ends_at=end), at("2026-01-01T00:00"), 1)
    assert fire.due == at("2026-01-01T02:00")


def test_the_preview_shows_the_daylight_saving_step() -> None:
    fires = preview(Rule("30 2 * * *", "Europe/Berlin"), at("2026-03-27T12:00"), 3)
    assert [(fire.local, fire.note) for fire in fires] == [
        ("2026-03-28T02:30+01:00", None),
        ("2026-03-29T03:00+02:00", "the clocks were put forward by 1:00:00 since the last"),
        ("2026-03-30T02:30+02:00", None),
    ]


def test_the_preview_says_which_time_the_clocks_show_twice() -> None:
    fires = preview(Rule("30 2 * * *", "Europe/Berlin"), at("2026-10-24T12:00"), 2)
    assert [fire.note is not None for fire in fires] == [True, True]
    assert fires[0].note == "the clocks show this time twice; it fires once"


@pytest.mark.parametrize("cron", ["0 * * * *", "*/60 2 * * *"])
def test_the_preview_says_that_a_schedule_by_the_hour_fires_both_times(cron: str) -> None:
    fires = preview(Rule(cron, "Europe/Berlin"), at("2026-10-24T23:30"), 2)
    assert [(fire.local, fire.note) for fire in fires] == [
        ("2026-10-25T02:00+02:00", "the clocks show this time twice; it fires both times"),
        ("2026-10-25T02:00+01:00", "the clocks show this time twice; it fires both times"),
    ]


def test_a_schedule_by_the_hour_leaves_out_what_the_clocks_skip() -> None:
    [fire] = preview(Rule("*/30 2 * * *", "Europe/Berlin"), at("2026-03-28T12:00"), 1)
    assert fire.local == "2026-03-30T02:00+02:00"


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-10-25"),
        ("America/New_York", "2026-11-01"),
        ("Australia/Lord_Howe", "2026-04-05"),
        ("America/Santiago", "2026-04-05"),
        ("America/Havana", "2026-11-01"),
        ("Pacific/Auckland", "2026-04-05"),
    ],
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "15,45 0-3 * * *", "50 1 * * *", "45 23 * * *", "0 * * * *"])
def test_the_next_time_lies_ahead_also_within_an_hour_that_comes_twice(zone: str, day: str, cron: str) -> None:
    start = at(f"{day}T00:00") - timedelta(hours=14)
    whole = list(takewhile(lambda time: time < start + timedelta(days=3), Rule(cron, zone).after(start)))
    assert whole == sorted(set(whole))
    for quarter in range(28 * 4):
        now = start + timedelta(minutes=15 * quarter)
        assert next_due(Rule(cron, zone), now) == next(time for time in whole if time > now)
