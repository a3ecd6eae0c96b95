"""The topics: declared here, created by `tidemill init`, compared with the broker by `tidemill topics`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from schemas.catalogue import EVENTS
from streams.settings import KafkaSettings

MAX_BYTES = 2 << 20
LONGER = timedelta(days=30)


class Topic(NamedTuple):
    """One declared topic."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def table_changelog(app_id: str) -> str:
    """The changelog topic of the Faust table, as Faust names it."""
    return f"{app_id}-view-tenants-changelog"


def declared(settings: KafkaSettings) -> list[Topic]:
    """Every topic of the house: equal partition counts, declared retention."""
    days = {"cleanup.policy": "delete", "retention.ms": _ms(settings.retention), "max.message.bytes": str(MAX_BYTES)}
    compact = {
        "cleanup.policy": "compact",
        "segment.ms": _ms(timedelta(hours=1)),
        "min.cleanable.dirty.ratio": "0.1",
        "max.message.bytes": str(MAX_BYTES),
    }
    if settings.replication >= 3:
        days["min.insync.replicas"] = compact["min.insync.replicas"] = "2"
    named = dict.fromkeys(EVENTS, days) | {
        "run.finished": days | {"retention.ms": _ms(LONGER)},
        "dead.letters": days | {"retention.ms": _ms(LONGER)},
        "run.state": compact,
        "run.journal": days | {"retention.ms": _ms(LONGER)},
        table_changelog(settings.app_id): compact,
    }
    return [Topic(name, settings.partitions, settings.replication, dict(config)) for name, config in named.items()]


def _ms(time: timedelta) -> str:
    return str(int(time.total_seconds() * 1000))


async def create(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    """Create what is missing; gives the names made. Creating twice is a no-op."""
    there = set(await admin.list_topics())
    new = [
        NewTopic(t.name, num_partitions=t.partitions, replication_factor=t.replication, topic_configs=t.config) for t in topics if t.name not in there
    ]
    if not new:
        return []
    answer = await admin.create_topics(new)
    made = []
    for name, code, *_ in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise error(f"topic {name} could not be created")
        made.append(name)
    return made


async def differences(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    """What the broker has otherwise than declared, a sentence each; empty when all is as it should be."""
    there = {entry["topic"]: entry for entry in await admin.describe_topics([t.name for t in topics])}
    found = []
    present = []
    for topic in topics:
        entry = there.get(topic.name)
        if entry is None or entry.get("error_code"):
            found.append(f"topic {topic.name} is missing; run `tidemill init`")
        elif len(entry["partitions"]) != topic.partitions:
            found.append(
                f"topic {topic.name} has {len(entry['partitions'])} partitions, declared are {topic.partitions}; all topics need the same count"
            )
        else:
            present.append(topic)
    return found + await _config_differences(admin, present)


async def _config_differences(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    if not topics:
        return []
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics])
    has: dict[str, dict[str, str]] = {}
    for answer in answers:
        for resource in answer.resources:
            has[resource[3]] = {entry[0]: entry[1] for entry in resource[4]}
    return [
        f"topic {topic.name} has {key}={has.get(topic.name, {}).get(key)}, declared is {value}"
        for topic in topics
        for key, value in topic.config.items()
        if has.get(topic.name, {}).get(key) != value
    ]
