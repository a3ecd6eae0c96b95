"""The AsyncAPI 3 document: every topic with its event's schema and broker settings, every stage as what it receives and sends."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from schemas.catalogue import EVENTS, FOREIGN
from schemas.event import Event
from streams.pipelines import Pipelines
from streams.records import STATE_TOPIC
from streams.table import Latest
from streams.topics import Topic, declared
from streams.web.parts import Use

router = APIRouter(tags=["documents"])
Json = dict[str, Any]

_TEXT = {"type": "string"}
_HEADERS: Json = {
    "type": "object",
    "description": "CloudEvents 1.0, binary mode. Publishers may leave all of them out: the id is then derived from topic, partition and offset.",
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "format": "uuid"},
        "ce_type": {"type": "string", "description": "the topic"},
        "ce_source": _TEXT,
        "ce_subject": {"type": "string", "description": "the run"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_tenantid": _TEXT,
        "ce_causationid": {"type": "string", "format": "uuid"},
        "ce_sequence": {"type": "string", "description": "the tenant's journal number: order one tenant's events by it"},
        "traceparent": _TEXT,
    },
}


@router.get("/asyncapi.json")
async def asyncapi(use: Use) -> Json:
    """The topics and their events, for generators and readers."""
    return document(use.pipelines)


def document(pipelines: Pipelines) -> Json:
    """The document for these pipelines."""
    settings = pipelines.settings.kafka
    schemas: Json = {}
    kinds: dict[str, type[BaseModel]] = {**EVENTS, STATE_TOPIC: Latest}
    topics = {topic.name: topic for topic in declared(settings) if not topic.name.startswith(settings.app_id)}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tidemill", "version": "1", "description": "The events of the control plane; the key is the tenant id."},
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": settings.bootstrap.partition(",")[0], "protocol": "kafka"}},
        "channels": {_id(name): _channel(topic, kinds.get(name)) for name, topic in topics.items()},
        "operations": _operations(pipelines),
        "components": {
            "messages": {_id(name): _message(name, kind, schemas) for name, kind in kinds.items()},
            "schemas": schemas,
        },
    }


def _id(topic: str) -> str:
    """A topic as a key of the document: letters, digits, '-' and '_' only."""
    return topic.replace(".", "_")


def _channel(topic: Topic, kind: type[BaseModel] | None) -> Json:
    kafka = {"topic": topic.name, "partitions": topic.partitions, "replicas": topic.replication, "bindingVersion": "0.5.0"}
    config = {name: [value] if name == "cleanup.policy" else int(value) for name, value in topic.config.items() if name in _KNOWN}
    channel: Json = {"address": topic.name, "bindings": {"kafka": {**kafka, "topicConfiguration": config}}}
    if kind is None:
        return {**channel, "description": "Records that could not be used: their raw bytes, with the facts in headers."}
    own = "anybody may publish here" if topic.name in FOREIGN else "only the runtime publishes here"
    return {**channel, "description": f"{kind.__doc__} ({own})", "messages": {_id(topic.name): {"$ref": f"#/components/messages/{_id(topic.name)}"}}}


_KNOWN = frozenset({"cleanup.policy", "retention.ms", "max.message.bytes"})
"""Of a topic's settings those that the Kafka binding has fields for."""


def _message(topic: str, kind: type[BaseModel], schemas: Json) -> Json:
    schema = kind.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[kind.__name__] = schema
    message: Json = {"name": topic, "title": kind.__name__, "summary": kind.__doc__, "payload": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    message["bindings"] = {"kafka": {"key": {"type": "string", "description": "the tenant id"}, "bindingVersion": "0.5.0"}}
    return {**message, "headers": _HEADERS} if issubclass(kind, Event) else message


def _operations(pipelines: Pipelines) -> Json:
    operations: Json = {}
    for pipeline in pipelines.all:
        for stage in pipeline.stages:
            wiring = [("receive", stage.takes.topic), *(("send", kind.topic) for kind in stage.gives)]
            if stage.watcher:
                wiring.append(("receive", stage.watcher.gives.topic))
            for action, topic in wiring:
                channel = {"$ref": f"#/channels/{_id(topic)}"}
                name = f"{pipeline.name}_{stage.name}_{action}_{_id(topic)}"
                operations[name] = {"action": action, "channel": channel, "title": stage.name, "summary": stage.doc}
    return operations
