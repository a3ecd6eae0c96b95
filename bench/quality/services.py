"""What the worker of `scripts/bench quality` carries: the bench's six stages for the hand-overs, and the quality pipeline that ships."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agents import QUALITY
from bench.pipeline import PIPELINES as HAND_OVERS
from bench.pipeline import BenchServices
from streams.clients.http import open_neighbour
from streams.clients.quality import Quality
from streams.cpu import ChildProcesses
from streams.resident import ResidentChild
from streams.settings import Settings

PIPELINES = (*HAND_OVERS, QUALITY)


@dataclass(frozen=True, slots=True)
class QualityServices(BenchServices):
    """The stub for the hand-overs, the ledger and the judge for the quality pipeline."""

    settings: Settings
    quality: Quality
    judge: ResidentChild


@asynccontextmanager
async def open_services(settings: Settings, versions: object, quality: Quality) -> AsyncIterator[QualityServices]:
    """As the platform opens them, without the neighbours that nobody calls here."""
    memory = settings.runtime.child_memory
    async with open_neighbour("stub", settings.ml_engine) as stub, ChildProcesses(1, memory=memory) as cpu, ResidentChild(memory=memory) as judge:
        yield QualityServices(stub, cpu, settings, quality, judge)
