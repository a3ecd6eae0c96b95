"""The judge: do the invariants I1 to I9 hold in a snapshot? A pure function; every violation is a sentence with its evidence."""

from collections.abc import Callable, Iterator

from tests.chaos import data, effects, events, slots, state
from tests.chaos.snapshot import Snapshot
from tests.chaos.violation import Violation

INVARIANTS: dict[str, tuple[Callable[[Snapshot], Iterator[Violation]], ...]] = {
    "I1": (events.one_run_a_trigger, events.acknowledged_is_there),
    "I2": (effects.one_effect_a_round, effects.one_face_an_event, effects.every_event_published),
    "I3": (state.rows_are_the_fold, state.topic_shows_the_rows),
    "I4": (state.nothing_overdue,),
    "I5": (effects.live_versions_are_whole, data.good_data_is_seen_as_it_lies, data.good_data_goes_live),
    "I6": (effects.tenants_are_apart,),
    "I7": (events.every_offset_is_accounted_for,),
    "I8": (slots.one_request_a_slot, slots.slots_follow_their_schedule),
    "I9": (state.everything_drained,),
}


def check(snapshot: Snapshot) -> list[Violation]:
    """Every violation of every invariant."""
    return [violation for rules in INVARIANTS.values() for rule in rules for violation in rule(snapshot)]
