"""Neighbours that honour the idempotency key and nothing else: they hang, fail before and after the deed, and their callbacks lie in every way."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from streams.faultpoints import point
from streams.stage import GiveUp, TryAgain
from streams.step import Effect, current
from tests.simulation.life import LIFE, detached

if TYPE_CHECKING:
    from tests.simulation.world import World

HANG = 60.0
"""Seconds: longer than any stage of the simulation may take."""


@dataclass(slots=True)
class Accepted:
    """One line of a neighbour's journal: a command that it carried out."""

    neighbour: str
    key: str
    command: str
    tenant_id: str
    body: dict[str, Any]
    reply: dict[str, Any]
    at: float
    ended_badly: bool = False
    """A job that came to a bad end: the next round may start another."""


class Neighbour:
    """What all of them share: one deed a key, the same answer to everybody who comes with the key."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.journal: dict[str, Accepted] = {}

    async def command(
        self, command: str, tenant_id: str, body: dict[str, Any], do: Callable[[str], dict[str, Any]], *, key: str | None = None
    ) -> dict[str, Any]:
        """Send a command, as a client of the house does: lease first, then the bytes, then the answer noted."""
        step, life = current.get(), LIFE.get()
        assert step is not None
        assert life is not None
        choices, weather, key = self.world.choices, self.world.weather, key or step.key
        step.check_lease()
        point("command.sending")
        await life.reach(f"{command} sending")
        if choices.chance(weather.outage):
            raise TryAgain(
                f"{self.name} is down", code=f"{self.name}_down", free=True, waiting_for=self.name, after=timedelta(seconds=choices.number(1, 30))
            )
        if choices.chance(weather.fails):
            raise TryAgain(f"{self.name} answered 500", code=f"{self.name}_error")
        if choices.chance(weather.refuses):
            self.world.refused.add(step.run_id)
            raise GiveUp(f"{self.name} refused", code="refused")
        reply = await detached(self._carry_out(command, tenant_id, key, body, do), self.world.loop)
        point("command.sent")
        await life.reach(f"{command} sent")
        if choices.chance(weather.hangs):
            await asyncio.sleep(HANG)
        if choices.chance(weather.breaks_off):
            raise TryAgain(f"{self.name} broke off", code=f"{self.name}_broke_off")
        if choices.chance(weather.crashes_client):
            raise RuntimeError("a client that crashes over the answer")
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).digest()
        step.effects.append(Effect(key, f"POST {command}", 200, digest, digest, reply, self.world.clock.now()))
        point("command.answered")
        return reply

    async def _carry_out(self, command: str, tenant_id: str, key: str, body: dict[str, Any], do: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """On the neighbour's side: it happens whether or not the sender still lives."""
        choices, weather = self.world.choices, self.world.weather
        slow = choices.chance(weather.slow)
        await asyncio.sleep(choices.between(0, 20 if slow else 0.05))
        if (known := self.journal.get(key)) is None:
            known = self.journal[key] = Accepted(self.name, key, command, tenant_id, body, {}, self.world.loop.time())
            known.reply = do(key)
        elif (known.command, known.tenant_id, known.body) != (command, tenant_id, body):
            self.world.violate("I2", f"{self.name} got another body under the key {key}: {body} after {known.body}")
        await asyncio.sleep(choices.between(0, 0.02))
        return known.reply

    async def question(self, name: str) -> None:
        """A GET on its way."""
        life, choices, weather = LIFE.get(), self.world.choices, self.world.weather
        assert life is not None
        await life.reach(f"{name} asking")
        await asyncio.sleep(choices.between(0, 0.02))
        if choices.chance(weather.fails):
            raise TryAgain(f"{self.name} answered 500", code=f"{self.name}_error")
        if choices.chance(weather.hangs):
            await asyncio.sleep(HANG)
        if choices.chance(weather.crashes_client):
            raise RuntimeError("a client that crashes over the answer")
        await life.reach(f"{name} told")


@dataclass(slots=True)
class Job:
    """What the engine works on."""

    job_id: str
    kind: str  # train index
    tenant_id: str
    accepted: Accepted
    facts: dict[str, Any]
    ending: str  # completed failed never
    mute: bool
    """It never says in a status that it is over: only the callback does."""
    ended_at: float | None = None
    told_at: float | None = None
    """When a true callback was published."""
    cancelled: bool = False


class Engine(Neighbour):
    """Trains and builds, and calls back on Kafka."""

    def __init__(self, world: "World") -> None:
        super().__init__(world, "ml_engine")
        self.jobs: dict[str, Job] = {}

    async def start(self, kind: str, tenant_id: str, body: dict[str, Any]) -> str:
        reply = await self.command(kind, tenant_id, body, lambda key: self._begin(kind, tenant_id, body, key))
        return str(reply["job_id"])

    def _begin(self, kind: str, tenant_id: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        choices, weather = self.world.choices, self.world.weather
        job_id = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        ending = "never" if choices.chance(weather.job_never_ends) else "failed" if choices.chance(weather.job_fails) else "completed"
        mute = ending == "completed" and choices.chance(weather.mute)
        job = Job(job_id, kind, tenant_id, self.journal[key], self.facts(kind, tenant_id, body), ending, mute)
        self.jobs[job_id] = job
        if choices.chance(weather.foreign):
            self._call_back(job, tenant_id=self.world.other_tenant(tenant_id), true=False)
        if ending != "never":
            if choices.chance(weather.early):
                self._end(job)
            else:
                self.world.later(choices.between(0, 15), lambda: self._end(job))
        return {"job_id": job_id}

    def facts(self, kind: str, tenant_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a finished job says of its product."""
        if kind == "train":
            return {"model_path": f"models/{tenant_id}/{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8]}"}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return {"index_path": f"indices/{tenant_id}/{digest[:8]}", "vectors": 4, "dim": 4, "kind": "Flat", "sha256": digest}

    def _end(self, job: Job) -> None:
        choices, weather = self.world.choices, self.world.weather
        job.ended_at = self.world.loop.time()
        job.accepted.ended_badly = job.ending == "failed"
        if job.kind == "index" and job.ending == "failed":
            return  # there is no event for it: only who asks learns it
        if not job.mute and choices.chance(weather.no_callback):
            return
        times = 2 if choices.chance(weather.twice) else 1
        for n in range(times):
            late = choices.between(0, 40) if choices.chance(weather.late) else choices.between(0, 1)
            if n == 0 and choices.chance(weather.early):
                self._call_back(job)
            else:
                self.world.later(late, lambda: self._call_back(job))
        if choices.chance(weather.foreign):
            self.world.later(choices.between(0, 5), lambda: self._call_back(job, tenant_id=self.world.other_tenant(job.tenant_id), true=False))

    def _call_back(self, job: Job, *, tenant_id: str | None = None, true: bool = True) -> None:
        tenant = tenant_id or job.tenant_id
        data: dict[str, Any] = {"tenant_id": tenant, "job_id": job.job_id}
        if job.kind == "train":
            failed = job.ending == "failed" and true
            data |= {"status": "failed", "error": "it diverged"} if failed else {"status": "completed", **job.facts}
            if not true:
                data["model_path"] = f"models/{tenant}/forged"
        else:
            data |= job.facts if true else job.facts | {"index_path": f"indices/{tenant}/forged"}
        headers = [("ce_id", str(uuid5(NAMESPACE_OID, f"{job.job_id} {tenant}")).encode())] if self.world.choices.number(0, 3) else []
        topic = "training.completed" if job.kind == "train" else "index.built"
        self.world.broker.append(topic, tenant.encode(), json.dumps(data).encode(), headers)
        if true and job.told_at is None:
            job.told_at = self.world.loop.time()

    async def status(self, job_id: str) -> tuple[str, Job]:
        """What a status says: pending, completed, failed, cancelled."""
        await self.question("status")
        job = self.jobs[job_id]
        if job.cancelled and job.ended_at is None:
            return "cancelled", job
        return ("pending" if job.mute or job.ended_at is None else job.ending), job

    async def cancel_job(self, job_id: str, tenant_id: str) -> None:
        def do(_: str) -> dict[str, Any]:
            self.jobs[job_id].cancelled = True
            return {}

        await self.command("cancel", tenant_id, {"job_id": job_id}, do, key=f"cancel:{job_id}")


@dataclass(frozen=True, slots=True)
class Town:
    """All neighbours of one seed, as the toy stages use them."""

    engine: Engine
    service: Neighbour
