"""The limit: a bare loop doing what a run cannot do without, with the clients that ship and nothing of Tidemill around them.

A run is one Kafka record read, then six times: the HTTP call, one durable commit of as much as a hand-over writes (commits that
come together share a transaction, as ours do), one Kafka record sent. Told what to do on stdin; `bare` is the contestant's side.
"""

import asyncio
import json
import os
import sys
import time
from collections import deque
from typing import Any

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.pipeline import STAGES, Answered, Asked
from streams.clients.http import Neighbour, open_neighbour
from streams.settings import MLEngineSettings, RuntimeSettings

TOPIC = "bench.limit"
PAYLOAD = json.dumps({"payload": "x" * 1500})
"""About the text that one hand-over of ours puts into its rows."""
EVENT = b"x" * 350
LANES = 2
_TABLE = "create table if not exists bench_limit (run text, stage text, data jsonb, primary key (run, stage))"
_INSERT = "insert into bench_limit select * from unnest($1::text[], $2::text[], $3::jsonb[])"


class Commits:
    """Rows that come together share a transaction."""

    def __init__(self, connections: "list[asyncpg.Connection[Any]]") -> None:
        self._queue: deque[tuple[str, str, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self.lanes = [asyncio.create_task(self._lane(each)) for each in connections]

    async def commit(self, run: str, stage: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((run, stage, done))
        self._wake.set()
        await done

    async def _lane(self, connection: "asyncpg.Connection[Any]") -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._queue.popleft() for _ in range(len(self._queue))]
            await connection.execute(_INSERT, [run for run, _, _ in batch], [stage for _, stage, _ in batch], [PAYLOAD] * len(batch))
            for _, _, done in batch:
                done.set_result(None)


class Loop:
    """The bare loop with its clients."""

    def __init__(self, http: Neighbour, commits: Commits, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self.http, self.commits, self.producer, self.consumer = http, commits, producer, consumer
        self._room = asyncio.Semaphore(RuntimeSettings().concurrency)
        self._under_way: set[asyncio.Task[None]] = set()
        self.hops: list[float] = []

    async def read(self) -> None:
        """Begin a run for each record."""
        async for record in self.consumer:
            if record.key is None:
                self.hops.append(time.monotonic() - float(record.value))
                continue
            await self._room.acquire()
            task = asyncio.create_task(self.run(record.key.decode()))
            self._under_way.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.release()
        task.result()

    async def run(self, run: str) -> None:
        sent = []
        for stage in STAGES:
            await self.call(stage, run)
            await self.commits.commit(run, stage)
            sent.append(await self.producer.send(TOPIC + ".out", key=run.encode(), value=EVENT))
        await asyncio.gather(*sent)

    async def call(self, stage: str, run: str) -> None:
        path = f"/stage/{stage}/{run}"
        if stage in ("validate", "wait"):
            await self.http.call("GET", path, {200: Answered})
        else:
            await self.http.post(path, Asked(tenant_id=run), Answered, key=f"{run}:{stage}:1")

    async def parts(self, count: int) -> dict[str, list[float]]:
        """Each of the three by itself, so many times, in seconds."""
        self.hops.clear()
        for _ in range(count):
            await self.producer.send_and_wait(TOPIC, value=str(time.monotonic()).encode())
            await asyncio.sleep(0.002)
        took: dict[str, list[float]] = {"http": [], "commit": []}
        for number in range(count):
            began = time.monotonic()
            await self.call("train", f"part-{number}")
            between = time.monotonic()
            await self.commits.commit(f"part-{os.getpid()}-{time.monotonic_ns()}", "train")
            took["http"].append(between - began)
            took["commit"].append(time.monotonic() - between)
        return took | {"kafka_hop": self.hops}


async def main() -> None:
    connections = [await asyncpg.connect(os.environ["BENCH_DSN"]) for _ in range(LANES)]
    await connections[0].execute(_TABLE)
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=os.environ["BENCH_KAFKA"], auto_offset_reset="latest")
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["BENCH_KAFKA"], acks="all", enable_idempotence=False)
    await consumer.start()
    await consumer.seek_to_end()
    await producer.start()
    async with open_neighbour("stub", MLEngineSettings(url=os.environ["BENCH_STUB"])) as http:
        loop = Loop(http, Commits(connections), producer, consumer)
        reading = asyncio.create_task(loop.read())
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(await loop.parts(json.loads(line)["parts"]))
        reading.cancel()
    await producer.stop()
    await consumer.stop()


def say(what: Any) -> None:
    print(">", json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
