"""Ids derived from facts: the same facts give the same id in every worker, after every crash."""

from uuid import UUID, uuid5

from schemas.cloudevents import event_id as event_id
from schemas.context import NAMESPACE

OURS = "tidemill"
"""The CloudEvents source of everything the runtime says."""


def run_id(pipeline: str, tenant_id: str, cause: UUID) -> UUID:
    """The run that the first of its causes makes."""
    return uuid5(NAMESPACE, f"run\n{pipeline}\n{tenant_id}\n{cause}")


def inbox_key(tenant_id: str, source: str, event: UUID) -> UUID:
    """What tells a repeated event from a new one: (tenant, source, id)."""
    return uuid5(NAMESPACE, f"inbox\n{tenant_id}\n{source}\n{event}")


def request_event(tenant_id: str, request_key: str) -> UUID:
    """The event id of a request made through API or CLI under a key."""
    return uuid5(NAMESPACE, f"request\n{tenant_id}\n{request_key}")


def dead_letter(cluster: str, topic: str, partition: int, offset: int, timestamp_ms: int) -> UUID:
    """The dead letter of one record: reading it again makes no second one, what has its place on a new topic or cluster does."""
    return uuid5(NAMESPACE, f"dead\n{cluster}\n{topic}\n{partition}\n{offset}\n{timestamp_ms}")


def finish_event(run: UUID, stage: str, round: int) -> UUID:
    """The `run.finished` that the end of this stage's round would bring."""
    return event_id(run, stage, round, "run.finished")
