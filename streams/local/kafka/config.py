"""The broker's `server.properties` and identity: one node that is broker and controller, on loopback only."""

import base64
import uuid
from pathlib import Path

LARGEST_RECORD = 3 << 20
"""The largest topic limit is 2 MiB (`dead.letters`); headers and batch framing come on top."""


def identity(data: Path) -> str:
    """The cluster id of a data folder; an empty one is formatted, for which Kafka 4.4 needs no more than this file."""
    meta = data / "meta.properties"
    if not meta.exists():
        draft = meta.with_suffix(".tmp")
        draft.write_text(f"version=1\ncluster.id={_kafka_id()}\nnode.id=1\ndirectory.id={_kafka_id()}\n")
        draft.rename(meta)
    values = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line)
    return values["cluster.id"]


def _kafka_id() -> str:
    """A random id in Kafka's spelling, which may not begin with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if not text.startswith("-"):
            return text


def properties(data: Path, port: int, controller: int) -> str:
    """What differs from Kafka's defaults, and why."""
    broker = f"PLAINTEXT://127.0.0.1:{port}"
    values: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{broker},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": broker,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        # a misspelt topic is an error, not a new topic
        "auto.create.topics.enable": "false",
        "message.max.bytes": LARGEST_RECORD,
        "replica.fetch.max.bytes": LARGEST_RECORD,
        # the first member of a group need not wait 3 s for others
        "group.initial.rebalance.delay.ms": 0,
        # after a SIGKILL the old registration must expire before the broker may start: 9 s by default
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # small files: this is one machine's disk
        "log.segment.bytes": 16 << 20,
        "log.index.size.max.bytes": 1 << 20,
        "log.cleaner.dedupe.buffer.size": 4 << 20,
        # groups and transactions with one node
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.min.isr": 1,
    }
    for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        values |= {f"{topic}.replication.factor": 1, f"{topic}.num.partitions": 1}
    return "".join(f"{key}={value}\n" for key, value in values.items())
