"""The demo's second part: a tenant whose data is bad. Verdict, incidents, alerts, blocked training, repair, and the run let through."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from schemas.quality import DqTick
from schemas.states import RunState
from streams.ledger.connection import Connection
from streams.local.addresses import Addresses
from streams.local.demo_runs import Watched, follow, publish
from streams.local.demo_screen import Screen
from streams.quality import QualityReader

Errand = Callable[..., Awaitable[None]]
"""Runs `reference.warehouse` with these words, to its end."""


class DirtyTenant:
    """The story of one spoiled tenant among healthy ones; `wrong` gathers what did not go as it should."""

    def __init__(self, tenant: str, healthy: Sequence[str], kept: Path, where: Addresses, warehouse: Errand, screen: Screen) -> None:
        self.tenant, self.healthy, self._kept, self._where = tenant, healthy, kept, where
        self._warehouse, self._screen = warehouse, screen
        self.wrong: list[str] = []
        self._connection = Connection(where.postgres, name="tidemill-demo")
        self._reader = QualityReader(self._connection)

    async def tell(self) -> bool:
        """From the first tick to the run that was let through; whether all went as it should."""
        try:
            seeded = await self._spoil()
            await self._measure([*self.healthy, self.tenant])
            await self._judged(seeded)
            await self._blocked()
            await self._mend()
            [tick] = await self._measure([self.tenant])
            await self._let_through(tick)
        finally:
            await self._connection.close()
        for sentence in self.wrong:
            self._screen.say(f"wrong: {sentence}")
        return not self.wrong

    async def _spoil(self) -> dict[str, int]:
        self._screen.chapter(f"bad data: {self.tenant}")
        names = [*self.healthy, self.tenant]
        await self._warehouse("fill", "--keep", str(self._kept), "--dirty", self.tenant, *names)
        text = await asyncio.to_thread((self._kept / self.tenant / "defects.json").read_text)
        seeded: dict[str, int] = json.loads(text)
        self._screen.say(f"the warehouse of {len(names)} tenants is filled; {sum(seeded.values())} rows of {self.tenant} are bad on purpose")
        return seeded

    async def _measure(self, tenants: Sequence[str]) -> list[Watched]:
        """A tick for each tenant, and their quality runs followed to the end."""
        self._screen.say(f"measuring {', '.join(tenants)} ...")
        ticks = await publish(self._where.kafka, tenants, DqTick.topic)
        await self._follow(ticks)
        return ticks

    async def _judged(self, seeded: dict[str, int]) -> None:
        """Every tenant's verdict, and what was counted beside what was put in."""
        verdicts = {row["tenant_id"]: row for row in await self._reader.tenants()}
        for tenant in self.healthy:
            verdict = verdicts[tenant]["verdict"] if tenant in verdicts else None
            self._expect(verdict in ("pass", "warn"), f"{tenant} is healthy, but its verdict is {verdict}")
        found = await self._verdict()
        self._expect(found["verdict"] == "fail", f"{self.tenant} is spoiled, but its verdict is {found['verdict']}")
        failing = [check for check in found["checks"] if check["status"] == "fail"]
        counted = {check["check"]: check.get("count") for check in failing}
        self._expect(counted == seeded, f"{counted} was counted, {seeded} was put in")
        self._screen.verdicts([verdicts[tenant] for tenant in (self.tenant, *self.healthy) if tenant in verdicts])
        self._screen.findings(self.tenant, failing, seeded)
        opened = await self._open_and_told()
        self._expect({each["check_name"] for each in opened} == set(seeded), f"incidents are open for {[each['check_name'] for each in opened]}")
        self._screen.say(f"{self.tenant}: {len(opened)} incidents are open, and the monitor has been told of each once")

    async def _blocked(self) -> None:
        [run] = await publish(self._where.kafka, [self.tenant])
        await self._follow([run])
        ended = run.detail.run if run.detail else None
        named = ended is not None and ended.state == RunState.BLOCKED and ended.code == "data_quality"
        self._expect(
            named, f"training of {self.tenant} should be blocked by data_quality, but ended as {ended and ended.state} ({ended and ended.code})"
        )
        for trouble in run.trouble:
            self._screen.say(f"{self.tenant}: {trouble}")

    async def _mend(self) -> None:
        await self._warehouse("mend", "--keep", str(self._kept), self.tenant)
        self._screen.say(f"\n{self.tenant}: the bad rows are deleted")

    async def _let_through(self, tick: Watched) -> None:
        """The incidents are over, and the blocked training was asked for again by the verdict itself."""
        found = await self._verdict()
        self._expect(found["verdict"] in ("pass", "warn"), f"{self.tenant} is mended, but its verdict is {found['verdict']}")
        still = [each["check_name"] for each in await self._open_and_told()]
        self._expect(not still, f"incidents are still open: {still}")
        if not still:
            self._screen.say(f"{self.tenant}: {found['verdict']}; every incident is resolved, and the monitor has been told")
        decided = tick.step.output if tick.step else None
        again = decided.get("let_through") if decided else None
        self._expect(again is not None, f"no training of {self.tenant} was let through")
        if again is not None:
            run = Watched(self.tenant, -1, -1, run_id=UUID(again))
            await self._follow([run])
            self._expect(run.succeeded, f"the training that was let through ended as {run.detail and run.detail.run.state}")
            self._screen.say(f"{self.tenant}: training {again[:8]} was let through because {_because(run)}: {_state(run)} in {run.seconds:.1f} s")
        self._screen.say(f"see         {self._where.web}/quality/{self.tenant}")

    async def _open_and_told(self) -> list[dict[str, Any]]:
        """The open incidents, once nothing waits to be told to the monitor; the demo's patience ends this if need be."""
        while True:
            incidents = [each for each in await self._reader.incidents(tenant=self.tenant, state=None) if not _of_absence(each)]
            if not any(each["undelivered"] for each in incidents):
                return [each for each in incidents if each["state"] == "open"]
            await asyncio.sleep(0.1)

    async def _verdict(self) -> dict[str, Any]:
        return await self._reader.tenant(self.tenant) or {"verdict": None, "checks": []}

    async def _follow(self, runs: Sequence[Watched]) -> None:
        with self._screen.progress() as show:
            await follow(self._where.postgres, runs, show)

    def _expect(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.wrong.append(sentence)


def _of_absence(incident: dict[str, Any]) -> bool:
    """Whether it is about something that did not happen, which has nothing to do with this story."""
    return bool(incident["check_name"].startswith("absence."))


def _because(run: Watched) -> str:
    reasons = [run.detail.request.get("reason")] if run.detail and isinstance(run.detail.request, dict) else []
    return str(reasons[0]).partition(";")[0] if reasons and reasons[0] else "its verdict is good"


def _state(run: Watched) -> str:
    return run.detail.run.state if run.detail else "unknown"
