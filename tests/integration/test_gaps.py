"""Several workers look for the same gaps: on a real ledger, what one has closed stays closed, and what nobody closes is taken up soon."""

from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from streams import inbox
from streams.gaps import _CLOSE, _LEASE, _NOTE, LEASE, Gaps
from streams.names import OURS
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Road, Travel, travelling

TOPIC = "training.validated"
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


class Reading:
    """The side consumer of the gap sweep, over a `Road`."""

    def __init__(self, road: Road) -> None:
        self._road, self._at = road, 0

    def resume(self, *partitions: TopicPartition) -> None: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._at = offset

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: len(self._road.log.get(partition.topic, [])) if partition.partition == 0 else 0 for partition in partitions}

    async def getmany(self, partition: TopicPartition, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        records = self._road.log[partition.topic][self._at :]
        self._at += len(records)
        return {partition: [SimpleNamespace(**{**record._asdict(), "timestamp": record.timestamp_ms}) for record in records]}


async def test_what_falsely_claims_to_be_ours_in_a_gap_is_a_dead_letter_before_the_gap_is_closed(
    ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be killed right after: the closed gap is never read again. Two share an id, as a liar's may."""
    monkeypatch.setattr(inbox, "ECHO_FLUSH", 3600)
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    forged = [("ce_source", OURS.encode()), ("ce_id", b"0d6c2d6c-3b43-4f4e-9a53-0f7a2a3c5d11")]
    for _ in range(2):
        travel.road.put("training.requested", b'{"tenant_id": "acme"}', headers=forged)
    async with travelling(travel):
        taker = travel.runtime.inbox
        gaps = Gaps(travel.settings, ["training.requested"], taker.take, taker.settle_strangers, travel.clock)
        for _ in range(2):
            await gaps.sweep(Reading(travel.road))
        await gaps.close()
        assert await travel.rows("select state, past from gaps") == [{"state": "reread", "past": 2}]
        assert await travel.rows('select "offset", code from dead_letters order by 1') == [
            {"offset": 0, "code": "not_ours"},
            {"offset": 1, "code": "not_ours"},
        ]


async def test_what_has_only_just_come_is_no_gap_and_what_nobody_read_since_the_last_look_is(ledger_dsn: str) -> None:
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    travel.unread.add("training.requested")
    async with travelling(travel):
        taker = travel.runtime.inbox
        gaps = Gaps(travel.settings, ["training.requested"], taker.take, taker.settle_strangers, travel.clock)
        await gaps.sweep(Reading(travel.road))
        travel.road.put("training.requested", b'{"tenant_id": "acme"}')
        await gaps.sweep(Reading(travel.road))
        assert await travel.rows("select state from gaps") == []
        await gaps.sweep(Reading(travel.road))
        assert await travel.rows("select state from gaps") == [{"state": "reread"}]
        await gaps.close()


async def test_a_topic_is_caught_up_when_what_lay_there_at_a_later_look_is_read_whatever_comes_meanwhile(ledger_dsn: str) -> None:
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    travel.unread.add("training.requested")
    async with travelling(travel):
        taker, reading = travel.runtime.inbox, Reading(travel.road)
        gaps = Gaps(travel.settings, ["training.requested"], taker.take, taker.settle_strangers, travel.clock)
        deadline = travel.clock.now()
        assert not gaps.caught_up("training.requested", deadline)  # nobody has looked
        first = travel.request("acme")
        await gaps.sweep(reading)
        assert not gaps.caught_up("training.requested", deadline)
        after = travel.clock.now()
        await taker.take(first)
        travel.request("globex")
        await gaps.sweep(reading)
        assert gaps.caught_up("training.requested", deadline)
        assert not gaps.caught_up("training.requested", after)
        await gaps.close()


async def test_a_topic_with_an_open_gap_is_caught_up_when_the_gap_is_closed(ledger_dsn: str) -> None:
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    travel.unread.add("training.requested")
    async with travelling(travel):
        taker, reading = travel.runtime.inbox, Reading(travel.road)
        gaps = Gaps(travel.settings, ["training.requested"], taker.take, taker.settle_strangers, travel.clock)
        deadline = travel.clock.now()
        travel.request("acme")
        await taker.take(travel.request("globex"))
        assert await travel.rows("select state, first, past from gaps") == [{"state": "open", "first": 0, "past": 1}]
        await gaps.sweep(reading)  # sees the gap, then closes it
        assert not gaps.caught_up("training.requested", deadline)
        await gaps.sweep(reading)
        assert gaps.caught_up("training.requested", deadline)
        await gaps.close()


async def test_without_kafka_no_topic_is_caught_up(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    travel = Travel(ledger_dsn, (TOY,), Neighbours())
    async with travelling(travel):
        taker, reading = travel.runtime.inbox, Reading(travel.road)
        gaps = Gaps(travel.settings, ["training.requested"], taker.take, taker.settle_strangers, travel.clock)
        await gaps.sweep(reading)
        deadline = travel.clock.now()

        async def away(partitions: Any) -> Any:
            raise KafkaConnectionError("the broker is down")

        monkeypatch.setattr(reading, "end_offsets", away)
        with pytest.raises(KafkaConnectionError):
            await gaps.sweep(reading)
        assert not gaps.caught_up("training.requested", deadline)
        await gaps.close()
