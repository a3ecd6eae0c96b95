"""The journal on Kafka: before a row leaves the outbox, its journal entry is published, so that a ledger that got lost is refilled from the topic.

One record a tenant and batch, key = tenant, value = a JSON list of entries as they stand in the ledger; with `inbox`, by what a request would be
known again. Not for other readers: they have the events.
"""

from collections.abc import Sequence
from itertools import groupby

from schemas.cloudevents import Record
from streams.ledger.connection import Connection

TOPIC = "run.journal"
MOST_BYTES = 1_500_000
"""In one record. A longer entry stays out, and is a hole for who refills."""
# beside the entries of these rows, those before them that have no row of their own: words about the tenant, the end of a step that was cancelled
_ENTRIES = """
select j.tenant_id, (to_jsonb(j) - 'tenant_id' || case when i.event_key is null then '{}' else jsonb_build_object('inbox', jsonb_build_object(
    'event_key', i.event_key, 'body', encode(i.body, 'hex'), 'topic', i.topic, 'partition', i.partition, 'offset', i."offset")) end)::text as entry
from outbox o join journal j on j.tenant_id = o.tenant_id and j.seq between o.seq - 1 and o.seq
    and (j.seq = o.seq or j.run_id is null or j.kind = 'step' and j.data ->> 'state' = 'cancelled')
left join inbox i on j.kind in ('accepted', 'merged') and i.run_id = j.run_id and i.event_id = (j.data ->> 'cause')::uuid
where o.id = any($1) order by j.tenant_id, j.seq
"""


async def records(connection: Connection, outbox_ids: Sequence[int]) -> list[Record]:
    """The journal entries that go with these rows of the outbox."""
    found = await connection.fetch(_ENTRIES, list(outbox_ids))
    by_tenant = groupby(found, key=lambda row: str(row["tenant_id"]))
    return [record for tenant, entries in by_tenant for record in _packed(tenant, [each["entry"] for each in entries])]


def _packed(tenant_id: str, entries: Sequence[str]) -> list[Record]:
    """As few records as the bound allows."""
    packs: list[list[str]] = [[]]
    size = 0
    for entry in entries:
        if (more := len(entry.encode())) > MOST_BYTES:
            continue
        if size + more > MOST_BYTES:
            packs.append([])
            size = 0
        packs[-1].append(entry)
        size += more
    return [Record(tenant_id.encode(), f"[{','.join(pack)}]".encode(), []) for pack in packs if pack]
