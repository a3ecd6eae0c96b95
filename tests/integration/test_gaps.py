"""Several workers look for the same gaps: on a real ledger, what one has closed stays closed, and what nobody closes is taken up soon."""

from collections.abc import AsyncIterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from streams import inbox
from streams.gaps import _CLOSE, _LEASE, _NOTE, LEASE, Gaps
from streams.names import OURS
from streams.reconcile import _GAP
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Road, Travel, travelling

TOPIC, ENTRY = "training.validated", "training.requested"
STATE = "select state from gaps where topic = $1"


@pytest.fixture
async def ledger(ledger_dsn: str) -> Any:
    connection = await asyncpg.connect(ledger_dsn)
    await connection.execute("insert into offsets (topic, partition, next) values ($1, 0, 16)", TOPIC)
    yield connection
    await connection.close()


async def test_a_gap_that_another_worker_has_closed_is_not_opened_again_by_one_that_looked_before(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await ledger.execute(_CLOSE, TOPIC, 0, 16, 17, "reread")
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert await ledger.fetchval(STATE, TOPIC) == "reread"


async def test_a_gap_in_one_workers_hands_is_no_other_workers_until_its_lease_ends(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 17)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await ledger.execute(_NOTE, TOPIC, 0, 16, 19)
    assert await ledger.fetch(_LEASE, [TOPIC], LEASE) == []
    await ledger.execute("update gaps set lease_until = clock_timestamp() - interval '1 s'")
    [row] = await ledger.fetch(_LEASE, [TOPIC], LEASE)
    assert (row["first"], row["past"]) == (16, 19)


OPEN = "select first, past from gaps where topic = $1 and state = 'open' order by first"


async def deliver(ledger: Any, offset: int) -> None:
    """What the inbox does of a record that Faust brings."""
    await ledger.execute("select advance($1, 0, $2, $3)", TOPIC, offset, offset + 1)


async def test_a_hole_that_grows_after_its_finder_died_is_read_to_its_end(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 20)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await deliver(ledger, 30)  # Faust passed over all from 16
    assert await ledger.fetch(_LEASE, [TOPIC], LEASE) == []
    await ledger.execute("update gaps set lease_until = clock_timestamp() - interval '1 s'")
    [row] = await ledger.fetch(_LEASE, [TOPIC], LEASE)
    assert (row["first"], row["past"]) == (16, 30)


async def test_what_a_gap_grew_by_while_it_was_read_stays_open(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 20)
    assert len(await ledger.fetch(_LEASE, [TOPIC], LEASE)) == 1
    await deliver(ledger, 30)
    await ledger.execute(_CLOSE, TOPIC, 0, 16, 20, "reread")
    [row] = await ledger.fetch(_LEASE, [TOPIC], LEASE)
    assert (row["first"], row["past"]) == (20, 30)
    await ledger.execute(_CLOSE, TOPIC, 0, 20, 30, "reread")
    assert await ledger.fetch(OPEN, TOPIC) == []


@pytest.mark.parametrize("faster", [20, 30])
async def test_two_who_read_a_growing_gap_leave_nothing_open(ledger: Any, faster: int) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 20)
    await deliver(ledger, 30)
    for past in (faster, 50 - faster):
        await ledger.execute(_CLOSE, TOPIC, 0, 16, past, "reread")
    assert await ledger.fetch(OPEN, TOPIC) == []


async def test_a_hole_where_a_closed_gap_began_is_a_gap_again(ledger: Any) -> None:
    """Watermarks only grow, unless the ledger or the topic is new."""
    await ledger.execute(_NOTE, TOPIC, 0, 16, 40)
    await ledger.execute(_CLOSE, TOPIC, 0, 16, 40, "reread")
    await ledger.execute("update offsets set next = 16 where topic = $1", TOPIC)
    await deliver(ledger, 30)
    assert [tuple(row) for row in await ledger.fetch(OPEN, TOPIC)] == [(16, 30)]


async def test_a_set_back_ledger_notes_more_of_a_gap_that_it_knows(ledger: Any) -> None:
    await ledger.execute(_NOTE, TOPIC, 0, 16, 20)
    await ledger.execute(_GAP, TOPIC, 0, 16, 30)
    assert [tuple(row) for row in await ledger.fetch(OPEN, TOPIC)] == [(16, 30)]


class Reading:
    """The side consumer of the gap sweep, over a `Road`."""

    def __init__(self, road: Road) -> None:
        self._road, self._at = road, 0
        self.silent = False
        """The broker is away: fetches give nothing."""
        self.compacted = False
        """Nothing is left of what was there."""

    def resume(self, *partitions: TopicPartition) -> None: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._at = offset

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: len(self._road.log.get(partition.topic, [])) if partition.partition == 0 else 0 for partition in partitions}

    async def position(self, partition: TopicPartition) -> int:
        return self._at

    async def getmany(self, partition: TopicPartition, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self.silent:
            return {}
        records = self._road.log[partition.topic][self._at :]
        self._at += len(records)
        if self.compacted:
            return {}
        return {partition: [SimpleNamespace(**{**record._asdict(), "timestamp": record.timestamp_ms}) for record in records]}


class Sweep:
    """A worker that reads nothing of one topic by itself, and the look for gaps beside it."""

    def __init__(self, travel: Travel) -> None:
        self.travel, self.take, self.reading = travel, travel.runtime.inbox.take, Reading(travel.road)
        self.gaps = Gaps(travel.settings, [ENTRY], self.take, travel.runtime.inbox.settle_strangers, travel.clock)

    async def look(self) -> None:
        await self.gaps.sweep(self.reading)

    def caught_up(self, since: datetime) -> bool:
        return self.gaps.caught_up(ENTRY, since)


@pytest.fixture
async def sweep(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweep]:
    monkeypatch.setattr(inbox, "ECHO_FLUSH", 3600)  # nothing settles by itself
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    travel.unread.add(ENTRY)
    async with travelling(travel):
        sweep = Sweep(travel)
        yield sweep
        await sweep.gaps.close()


async def test_what_falsely_claims_to_be_ours_in_a_gap_is_a_dead_letter_before_the_gap_is_closed(sweep: Sweep) -> None:
    """A worker may be killed right after: the closed gap is never read again. Two share an id, as a liar's may."""
    forged = [("ce_source", OURS.encode()), ("ce_id", b"0d6c2d6c-3b43-4f4e-9a53-0f7a2a3c5d11")]
    for _ in range(2):
        sweep.travel.road.put(ENTRY, b'{"tenant_id": "acme"}', headers=forged)
    for _ in range(2):
        await sweep.look()
    assert await sweep.travel.rows("select state, past from gaps") == [{"state": "reread", "past": 2}]
    assert await sweep.travel.rows('select "offset", code from dead_letters order by 1') == [
        {"offset": 0, "code": "not_ours"},
        {"offset": 1, "code": "not_ours"},
    ]


async def test_what_has_only_just_come_is_no_gap_and_what_nobody_read_since_the_last_look_is(sweep: Sweep) -> None:
    await sweep.look()
    sweep.travel.road.put(ENTRY, b'{"tenant_id": "acme"}')
    await sweep.look()
    assert await sweep.travel.rows("select state from gaps") == []
    await sweep.look()
    assert await sweep.travel.rows("select state from gaps") == [{"state": "reread"}]


async def test_a_gap_of_which_kafka_gives_nothing_stays_open_until_its_records_are_read(sweep: Sweep) -> None:
    sweep.travel.request("acme")
    await sweep.look()
    sweep.reading.silent = True
    with pytest.raises(KafkaTimeoutError):
        await sweep.look()
    assert await sweep.travel.rows("select state from gaps") == [{"state": "open"}]
    sweep.reading.silent = False
    await sweep.travel.rows("update gaps set lease_until = null")
    await sweep.look()
    assert await sweep.travel.rows("select state from gaps") == [{"state": "reread"}]
    await sweep.travel.see("select 1 from runs where tenant_id = 'acme'")


async def test_a_gap_of_which_compaction_left_nothing_is_closed(sweep: Sweep) -> None:
    sweep.travel.request("acme")
    sweep.reading.compacted = True
    for _ in range(2):
        await sweep.look()
    assert await sweep.travel.rows("select state from gaps") == [{"state": "no_record"}]


async def test_a_topic_is_caught_up_when_what_lay_there_at_a_later_look_is_read_whatever_comes_meanwhile(sweep: Sweep) -> None:
    deadline = sweep.travel.clock.now()
    assert not sweep.caught_up(deadline)  # nobody has looked
    first = sweep.travel.request("acme")
    await sweep.look()
    assert not sweep.caught_up(deadline)
    after = sweep.travel.clock.now()
    await sweep.take(first)
    sweep.travel.request("globex")
    await sweep.look()
    assert sweep.caught_up(deadline)
    assert not sweep.caught_up(after)


async def test_a_topic_with_an_open_gap_is_caught_up_when_the_gap_is_closed(sweep: Sweep) -> None:
    deadline = sweep.travel.clock.now()
    sweep.travel.request("acme")
    await sweep.take(sweep.travel.request("globex"))
    assert await sweep.travel.rows("select state, first, past from gaps") == [{"state": "open", "first": 0, "past": 1}]
    await sweep.look()  # sees the gap, then closes it
    assert not sweep.caught_up(deadline)
    await sweep.look()
    assert sweep.caught_up(deadline)


async def test_without_kafka_no_topic_is_caught_up(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    await sweep.look()
    deadline = sweep.travel.clock.now()

    async def away(partitions: Any) -> Any:
        raise KafkaConnectionError("the broker is down")

    monkeypatch.setattr(sweep.reading, "end_offsets", away)
    with pytest.raises(KafkaConnectionError):
        await sweep.look()
    assert not sweep.caught_up(deadline)
