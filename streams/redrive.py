"""The way back for dead letters: the stored record is decoded again, with its first identity, and accepted as if it came now.

Taking the letter and accepting its event are one transaction, so however often and from wherever it is asked, it happens once.
"""

import base64
from uuid import UUID

import asyncpg

from schemas.catalogue import FOREIGN
from schemas.cloudevents import Received, Refused, decode
from schemas.context import Origin
from streams.items import foreign_item, refusal_sentence
from streams.ledger.connection import is_conflict, is_outage
from streams.ledger.ledger import Answer, Ledger
from streams.ledger.rows import DeadRecord
from streams.names import OURS
from streams.pipelines import Pipelines
from streams.requests import refused, wake

_SETTLE = "update dead_letters set state = $2, settled_at = $3 where id = $1 and state = 'open' returning true"


class _StillRefused(Exception):
    """Undoes the transaction: the letter stays open."""


async def redrive(ledger: Ledger, pipelines: Pipelines, record: DeadRecord) -> Answer:
    """Accept the event of a dead letter. `result` as of `accept`, or refused: then the letter stays open."""
    letter = record.letter
    if letter.state != "open":
        return refused("letter_settled", letter=letter.id, state=letter.state)
    if record.cut:
        return refused("letter_cut", letter=letter.id, size=letter.size)
    origin = Origin(record.cluster, letter.topic, letter.partition, letter.offset, record.timestamp_ms)
    try:
        received = decode(record.key or None, record.value or None, [(name, base64.b64decode(text)) for name, text in record.headers], origin)
    except Refused as again:
        return refused(again.code, sentence=again.sentence)
    if received.meta.source == OURS or letter.topic not in FOREIGN:
        return refused("not_ours", topic=letter.topic)
    answer = await _accept(ledger, pipelines, letter.id, received, origin)
    if answer["result"] == "refused":
        return answer
    await wake(ledger)
    return {name: value for name, value in answer.items() if name not in ("outbox", "step")} | {"id": str(letter.id)}


async def drop(ledger: Ledger, letter_id: UUID) -> Answer:
    """Settle a dead letter without its event. `result`: dropped, or refused when it is not open."""
    won = await ledger.calls.value(_SETTLE, letter_id, "dropped", ledger.clock.now())
    return {"result": "dropped", "id": str(letter_id)} if won else refused("letter_settled", letter=letter_id, state="settled")


async def _accept(ledger: Ledger, pipelines: Pipelines, letter_id: UUID, received: Received, origin: Origin) -> Answer:
    item = foreign_item(pipelines, received, worker=None)
    if item is None:
        return refused("unwanted", topic=origin.topic)
    item |= {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
    now = ledger.clock.now()
    answer: Answer = {}
    try:
        async with ledger.calls.transaction() as raw:
            if not await raw.fetchval(_SETTLE, letter_id, "redriven", now):
                return refused("letter_settled", letter=letter_id, state="settled")
            answer = dict(await raw.fetchval("select receive($1, '[]'::jsonb, $2)", [item], now))
            if answer["result"] == "refused":
                raise _StillRefused
    except _StillRefused:
        return refused(answer["code"], sentence=refusal_sentence(answer["code"], received.event))
    except asyncpg.PostgresError as error:
        if is_outage(error) or is_conflict(error):
            raise
        return refused("unstorable", sqlstate=error.sqlstate)
    return answer
