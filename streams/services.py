"""Everything outside Kafka on one typed object, opened once before the first event and closed in reverse after the last."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from streams.clients.inference import Inference, open_inference
from streams.clients.ml_engine import MLEngine, open_ml_engine
from streams.clients.monitoring import Monitoring, open_monitoring
from streams.clients.objects import ObjectStore, open_objects
from streams.clients.quality import Quality
from streams.clients.versions import Versions
from streams.cpu import ChildProcesses
from streams.resident import ResidentChild
from streams.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a stage may use."""

    settings: Settings
    ml_engine: MLEngine
    inference: Inference
    monitoring: Monitoring
    objects: ObjectStore
    versions: Versions
    quality: Quality
    cpu: ChildProcesses
    judge: ResidentChild
    """Where Great Expectations lives: its import takes seconds."""


@asynccontextmanager
async def open_services(settings: Settings, versions: Versions, quality: Quality) -> AsyncIterator[Services]:
    """All neighbours, connected lazily: a neighbour that is down does not keep a worker from starting."""
    async with AsyncExitStack() as stack:
        yield Services(
            settings=settings,
            ml_engine=await stack.enter_async_context(open_ml_engine(settings.ml_engine)),
            inference=await stack.enter_async_context(open_inference(settings.inference)),
            monitoring=await stack.enter_async_context(open_monitoring(settings.monitoring)),
            objects=await stack.enter_async_context(open_objects(settings.s3)),
            versions=versions,
            quality=quality,
            cpu=await stack.enter_async_context(ChildProcesses(settings.runtime.processes, memory=settings.runtime.child_memory)),
            judge=await stack.enter_async_context(ResidentChild(memory=settings.runtime.child_memory)),
        )
