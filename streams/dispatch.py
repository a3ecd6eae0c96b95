"""Looks for due steps whenever there is room: after an accept, after a step, when somebody notifies, and each half second."""

import asyncio
import math
from collections.abc import Callable
from uuid import UUID

import structlog

from streams import metrics
from streams.executor import Executor
from streams.ledger.connection import is_conflict, is_outage
from streams.ledger.ledger import Answer, Ledger
from streams.pipelines import Pipelines
from streams.stage import Stage

log = structlog.get_logger(__name__)

REAP_EVERY = 2.0
BREATH = 0.02
"""Seconds after a claim that found nothing: in a burst something ends every millisecond, and what follows it was mostly handed over."""
CLAIMED_AT_ONCE = 50
"""Steps of a batch in one answer of the ledger, which is decoded in one go: their events may be large."""
PUT_OFF = 10.0
"""Seconds: what a call of a batch stage waits for may take long, or never end."""
FILLED = 0.125
"""Share of a worker's places up to which a tenant's pipeline gets a second one: the others are for whoever comes with a first."""


class Dispatcher:
    """Claims steps for the executor; finds what died with other workers and what this one was given without noticing."""

    def __init__(self, pipelines: Pipelines, ledger: Ledger, executor: Executor, worker: UUID, *, held: Callable[[], bool] = lambda: False) -> None:
        """`held`: whether new work has to wait a moment."""
        self._pipelines, self._ledger, self._executor, self._worker, self._held = pipelines, ledger, executor, worker, held
        self._poll = pipelines.settings.runtime.poll
        self._put_off_since: dict[str, float] = {}
        self._doubtful: set[tuple[str, str]] = set()
        self._leasing = asyncio.Lock()
        """From the first lease of a claim until all its steps are begun: meanwhile nobody is to find them leased and forgotten."""

    async def run(self) -> None:
        """Claim until cancelled; an outage of the ledger is waited out."""
        while True:
            try:
                if await self._claim():
                    continue
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    log.exception("claim failed; trying again")
                await asyncio.sleep(self._poll)
            await asyncio.sleep(BREATH)
            try:
                async with asyncio.timeout(self._poll):
                    await self._executor.room_made.wait()
            except TimeoutError:
                pass

    async def _claim(self) -> bool:
        """Lease and begin what there is room for; whether another claim would find more at once."""
        self._executor.room_made.clear()
        room = self._executor.room
        metrics.steps_running.set(self._pipelines.settings.runtime.concurrency - room)
        if room <= 0 or self._held():
            return False
        heavy, batches, limits = self._pipelines.cpu_stages, self._pipelines.batch_stages, self._pipelines.limits
        places, busy = self._pipelines.settings.runtime.concurrency, self._executor.busy
        more = max(0, math.ceil(FILLED * places) - (places - room))
        async with self._leasing:
            rows = await self._ledger.claim(self._worker, room, limits, without=[*heavy, *batches], more=more, busy=busy)
            if heavy and self._executor.cpu_room > 0:
                rows += await self._ledger.claim(self._worker, self._executor.cpu_room, limits, only=heavy)
            for row in rows:
                self._executor.take(row)
            gathered = sum([await self._claim_batch(stage) for stage in batches.values()])
        return self._executor.room > 0 and (len(rows) >= room or gathered > 0)

    async def _claim_batch(self, stage: Stage) -> int:
        """One call's worth of a batch stage, if not enough calls of it are under way."""
        assert stage.batch is not None
        if self._executor.batches(stage) >= stage.at_once or self._put_off(stage):
            return 0
        rows: list[Answer] = []
        try:
            for start in range(0, stage.batch, CLAIMED_AT_ONCE):
                most = min(CLAIMED_AT_ONCE, stage.batch - start)
                some = await self._ledger.claim(self._worker, most, self._pipelines.limits, only=[stage.name])
                rows += some
                if len(some) < most:
                    break
        finally:  # what it got before the ledger was gone is its to do
            self._executor.take_batch(rows, stage)
        return len(rows)

    def _put_off(self, stage: Stage) -> bool:
        """Whether a call of a batch stage waits, for `PUT_OFF` at most: beside others one thing at a time is accepted, worked on or committed."""
        giving_way, now = self._executor.giving_way, asyncio.get_running_loop().time()
        if giving_way.others and (self._executor.gathering or giving_way.crowded) and now - self._put_off_since.setdefault(stage.name, now) < PUT_OFF:
            return True
        self._put_off_since.pop(stage.name, None)
        return False

    async def run_reaper(self) -> None:
        """Give back the steps of workers whose lease ran out, and pick up those this worker holds without knowing."""
        while True:
            try:
                if reaped := await self._ledger.reap():
                    metrics.steps_reaped.inc(reaped)
                    log.warning("steps taken from workers whose lease ran out", steps=reaped)
                    self._executor.room_made.set()
                await self._pick_up()
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    log.exception("reaper failed; trying again")
            await asyncio.sleep(REAP_EVERY)

    async def _pick_up(self) -> None:
        """A reply that got lost on its way may have leased a step to this worker: seen twice in a row, it is worked on."""
        if self._executor.draining:
            return
        async with self._leasing:
            rows = [row for row in await self._ledger.leases(self._worker, known=self._executor.in_hand) if not self._executor.holds(row)]
        seen = {(row["run_id"], row["stage"]) for row in rows}
        for row in rows:
            if (row["run_id"], row["stage"]) in self._doubtful:
                log.warning("picking up a step that was leased to this worker unnoticed", run=row["run_id"], stage=row["stage"])
                self._executor.take(row)
        self._doubtful = seen - {(row["run_id"], row["stage"]) for row in rows if self._executor.holds(row)}
