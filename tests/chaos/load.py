"""Steady load: a publisher of requests that remembers what Kafka acknowledged, good ones, repeated ones and poison."""

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.chaos.snapshot import Place

TOPIC = "training.requested"
POISON: tuple[tuple[str, bytes | None], ...] = (
    ("not JSON", b"{tenant_id:"),
    ("bad UTF-8", b'{"tenant_id": "\xff\xfe"}'),
    ("null", None),
    ("a list", b"[1, 2, 3]"),
    ("NaN", b'{"tenant_id": "chaos-01", "reason": NaN}'),
    ("foreign key", b'{"tenant_id": "somebody-else"}'),
    ("path for a tenant", b'{"tenant_id": "../etc"}'),
    ("wrong field", b'{"tenant_id": "chaos-01", "model_config": {"epochs": "many"}}'),
    ("duplicate keys", b'{"tenant_id": "chaos-01", "reason": "a", "reason": {"b": 1}}'),
    ("deep", b'{"tenant_id": "chaos-01", "model_config": ' + b'{"a":' * 100 + b"1" + b"}" * 101),
)


class Publisher:
    """Publishes at a steady rate until it is paused; outages only slow it down."""

    def __init__(self, bootstrap: str, tenants: list[str], rate: float, seed: int) -> None:
        self._bootstrap, self._tenants, self._rate = bootstrap, tenants, rate
        self._random = random.Random(seed)
        self._going = asyncio.Event()
        self._named: list[tuple[str, dict[str, Any], bytes]] = []
        self.sent: list[Place] = []
        """What Kafka acknowledged."""
        self.published_at: dict[Place, float] = {}
        self.unsure = 0
        """Sends without an answer: they may be in the log or not."""
        self._sending: set[asyncio.Task[None]] = set()

    def go(self) -> None:
        self._going.set()

    async def pause(self) -> None:
        """Publish no more, and wait for what is on its way."""
        self._going.clear()
        if self._sending:
            await asyncio.wait(self._sending, timeout=40)

    async def run(self) -> None:
        """Until cancelled."""
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=False, request_timeout_ms=30_000)
        await producer.start()
        try:
            while True:
                await self._going.wait()
                task = asyncio.create_task(self._send(producer, *self._next()))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
                await asyncio.sleep(self._random.expovariate(self._rate))
                if len(self._sending) > 200:  # the broker is away: no more than this waits for it
                    await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in list(self._sending):
                task.cancel()
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)

    async def _send(self, producer: AIOKafkaProducer, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        began = time.time()
        try:
            done = await producer.send_and_wait(TOPIC, value, key=key, headers=headers)
        except KafkaError:
            self.unsure += 1
            return
        self.sent.append((done.topic, done.partition, done.offset))
        self.published_at[self.sent[-1]] = began

    def _next(self) -> tuple[bytes, bytes | None, list[tuple[str, bytes]]]:
        tenant, dice = self._random.choice(self._tenants), self._random.random()
        if dice < 0.05:
            return tenant.encode(), self._random.choice(POISON)[1], []
        if dice < 0.15 and self._named:  # said again: no new run
            again, data, event_id = self._random.choice(self._named[-200:])
            return again.encode(), json.dumps(data).encode(), [("ce_id", event_id)]
        data = {"tenant_id": tenant, "model_config": {"epochs": self._random.randint(1, 50)}}
        if dice < 0.17 and self._named:  # an id that was used, with another body
            other, _, event_id = self._random.choice(self._named[-200:])
            return other.encode(), json.dumps(data | {"tenant_id": other, "reason": f"{dice}"}).encode(), [("ce_id", event_id)]
        if dice < 0.50:
            event_id = str(UUID(int=self._random.getrandbits(128), version=4)).encode()
            self._named.append((tenant, data, event_id))
            return tenant.encode(), json.dumps(data).encode(), [("ce_id", event_id)]
        return tenant.encode(), json.dumps(data).encode(), []
