"""A worker's transport alone, in a process of its own: writes each record that it was handed, or that it skimmed as an echo, to a file.

`python -m tests.integration.reader BOOTSTRAP TOPIC GROUP SLOT FILE [no-patch]`. Seeks are slowed down and commits are rare, so that
the window in which Faust loses events (docs/decisions/0003) is wide open.
"""

import asyncio
import sys
from pathlib import Path

import faust
from aiokafka import AIOKafkaConsumer

from streams import seek_patch
from streams.items import Arrived
from streams.settings import KafkaSettings, Settings
from streams.transport import add_agents, make_app
from streams.worker import Worker


def slow_seeks() -> None:
    committed = AIOKafkaConsumer.committed

    async def slowly(self: AIOKafkaConsumer, partition: object) -> object:
        await asyncio.sleep(0.05)
        return await committed(self, partition)

    AIOKafkaConsumer.committed = slowly


def main(bootstrap: str, topic: str, group: str, slot: str, file: str, patch: str = "patch") -> None:
    slow_seeks()
    if patch == "no-patch":
        seek_patch.apply = lambda: None
    with Path(file).open("a", buffering=1) as out:

        def skim(record: Arrived) -> bool:
            if echo := record.value == b"echo":
                out.write(f"{record.partition} {record.offset} skimmed\n")
            return echo

        async def take(record: Arrived) -> None:
            out.write(f"{record.partition} {record.offset} taken\n")

        app: faust.App = make_app(Settings(kafka=KafkaSettings(bootstrap=bootstrap, app_id=group, partitions=4)), slot=int(slot), skim=skim)
        app.conf.broker_commit_interval = 60
        add_agents(app, [topic], take)
        Worker(app, quiet=True, redirect_stdouts=False, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
