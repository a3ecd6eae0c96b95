"""Deletes index folders that nothing names: every try at an index has one of its own, and of a try that was taken over it stays behind.

The ledger says what is named (`judge_folders`). Only folders of ended runs go, and only when their newest object is old enough; one that is
half deleted is found again by the next pass. A ledger that was set back sweeps nothing until it is refilled.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from streams import metrics
from streams.clients.objects import ObjectStore
from streams.ledger.connection import Connection, is_conflict, is_outage
from streams.ledger.ledger import Clocklike
from streams.settings import Settings
from streams.stage import GiveUp, TryAgain

log = structlog.get_logger(__name__)

ROOT = "indices/"
AT_ONCE = 200
"""Folders the ledger is asked about in one statement."""
LOOK = 30.0
"""Seconds between two looks whether it is time for a pass."""


@dataclass(slots=True)
class Folder:
    """`indices/{tenant}/{run}/{try}` and what lies below it."""

    path: str
    newest: datetime
    size: int = 0


@dataclass(slots=True)
class Pass:
    """What one pass came to."""

    folders: int = 0
    bytes: int = 0
    waiting: int = 0
    unknown: int = 0


class Sweeper:
    """The loop; any number of workers may run it, a pass is one worker's."""

    def __init__(self, connection: Connection, objects: ObjectStore, clock: Clocklike, settings: Settings) -> None:
        self._connection, self._objects, self._clock = connection, objects, clock
        self._bucket, self._every, self._kept = settings.s3.indices_bucket, settings.index.sweep_every, settings.index.orphans_kept

    async def run(self) -> None:
        """Sweep until cancelled; a pass that an outage breaks off is made up for by the next."""
        while True:
            try:
                if await self._connection.value("select begin_sweep($1, $2)", self._clock.now(), self._every):
                    await self.sweep()
            except (TryAgain, GiveUp) as why:
                log.warning("index folders that nothing names stay for now", code="sweep_broken_off", reason=why.sentence)
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    log.exception("index folders could not be swept; trying again", code="sweep_broken_off")
                await self._connection.drop()
            await asyncio.sleep(LOOK)

    async def sweep(self) -> Pass:
        """One pass over all folders."""
        done, some = Pass(), []
        async for folder in self._folders():
            some.append(folder)
            if len(some) == AT_ONCE:
                await self._judge(some, done)
                some = []
        await self._judge(some, done)
        await self._connection.fetch("select end_sweep($1, $2, $3, $4, $5)", self._clock.now(), done.folders, done.bytes, done.waiting, done.unknown)
        if done.folders:
            log.info("index folders that nothing named were deleted", folders=done.folders, bytes=done.bytes)
        return done

    async def _folders(self) -> AsyncIterator[Folder]:
        """What lies below the root, folder by folder: the listing is in the order of keys."""
        folder: Folder | None = None
        async for each in self._objects.list(self._bucket, ROOT):
            parts = each.key.split("/")
            if len(parts) < 5:
                continue  # nothing of ours lies so high
            path = "/".join(parts[:4])
            if folder is None or folder.path != path:
                if folder is not None:
                    yield folder
                folder = Folder(path, each.modified)
            folder.size, folder.newest = folder.size + each.size, max(folder.newest, each.modified)
        if folder is not None:
            yield folder

    async def _judge(self, some: list[Folder], done: Pass) -> None:
        rows: list[Any] = await self._connection.fetch("select folder, fate from judge_folders($1)", [folder.path for folder in some])
        fates = {row["folder"]: row["fate"] for row in rows}
        for folder in some:
            if fates[folder.path] == "unknown":
                done.unknown += 1
            elif fates[folder.path] == "orphan" and not self._old(folder):
                done.waiting += 1
            elif fates[folder.path] == "orphan":
                await self._objects.delete_prefix(self._bucket, f"{folder.path}/")
                done.folders, done.bytes = done.folders + 1, done.bytes + folder.size
                metrics.index_folders_swept.inc()

    def _old(self, folder: Folder) -> bool:
        return folder.newest < self._clock.now() - self._kept
