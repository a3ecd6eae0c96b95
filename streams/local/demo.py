"""What `scripts/demo` runs: the platform, three made-up tenants, a bare event on Kafka for each, what came of it, and a fourth with bad data."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from streams.local.child import Errand
from streams.local.demo_home import begin_anew
from streams.local.demo_quality import DirtyTenant
from streams.local.demo_runs import Watched, follow, publish
from streams.local.demo_screen import Screen
from streams.local.errors import LocalError, first_cause
from streams.local.process import ServerProcess
from streams.local.stack import Say, running
from streams.local.up import Platform
from streams.settings import Settings

T = TypeVar("T")
PATIENCE = 180
"""Seconds that all runs together may take."""


class Tenant(NamedTuple):
    """A tenant that does not exist, and how much of it."""

    name: str
    users: int
    items: int
    interactions: int
    form: str


TENANTS = (
    Tenant("acme", 300, 200, 6_000, "jsonl"),
    Tenant("globex", 1_500, 600, 30_000, "json"),
    Tenant("initech", 4_000, 1_500, 100_000, "parquet"),
)
"""Of three sizes: the index of the largest is an IVF, the others are Flat."""
DIRTY = Tenant("umbrella", 400, 250, 10_000, "jsonl")
"""Whose data in the warehouse is spoiled, once the others are served."""


class DemoPlatform(Platform):
    """The platform, with the tenants' data put into S3 while it starts."""

    def __init__(self, home: Path, say: Say) -> None:
        super().__init__(home, say=say, quick=True)

    @property
    def kept(self) -> Path:
        return self.home.path / "demo"

    def declare(self) -> list[ServerProcess]:
        specs = [":".join(map(str, tenant)) for tenant in (*TENANTS, DIRTY)]
        servers = super().declare()
        return [*servers, self._errand("seed", "--keep", str(self.kept), *specs)]

    def _errand(self, what: str, *words: str) -> Errand:
        return Errand(self.home, what, [f"reference.{what}", *words], environment=self._reference_environment(), after=[self.seaweedfs])

    async def warehouse(self, *words: str) -> None:
        """Fill the watched tables, or mend a tenant's."""
        await self.add_runtime_dependency(self._errand("warehouse", *words))

    async def scores(self, tenants: list[str]) -> dict[str, dict[str, Any]]:
        """How good the served recommendations are, by tenant."""
        if not tenants:
            return {}
        out = self.kept / "scores.json"
        words = ("--inference", self.addresses.inference, "--keep", str(self.kept), "--out", str(out))
        await self.add_runtime_dependency(self._errand("score", *words, *tenants))
        found: dict[str, dict[str, Any]] = json.loads(await asyncio.to_thread(out.read_text))
        return found


async def demo(home: Path, screen: Screen, *, once: bool) -> int:
    """Run it until it is over, or a signal; gives the exit status."""
    stopping = asyncio.create_task(_signal())
    showing = asyncio.create_task(_show(DemoPlatform(home, screen.say), screen, once=once))
    await asyncio.wait({showing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    interrupted = not showing.done()
    if interrupted:
        screen.say("stopping")
        showing.cancel()
    try:
        return await showing
    except asyncio.CancelledError:
        return 128 + stopping.result()
    except LocalError as error:
        screen.say(str(error))
        return error.exit_code
    finally:
        stopping.cancel()


async def _show(platform: DemoPlatform, screen: Screen, *, once: bool) -> int:
    began = time.monotonic()
    async with running(platform):
        screen.say(f"everything is up in {time.monotonic() - began:.1f} s")
        runs = await _while_up(platform, _runs(platform, screen, began))
        told = await _while_up(platform, _dirty(platform, screen))
        screen.say(f"all of it took {time.monotonic() - began:.1f} s")
        succeeded = told and all(run.succeeded for run in runs)
        if not once:
            screen.what_next(runs, platform.addresses, platform.home.path)
            await _while_up(platform, asyncio.Event().wait())
    return 0 if succeeded else 1


async def _runs(platform: DemoPlatform, screen: Screen, began: float) -> list[Watched]:
    runs = await publish(platform.addresses.kafka, [tenant.name for tenant in TENANTS])
    try:
        async with asyncio.timeout(PATIENCE):
            with screen.progress() as show:
                await follow(platform.addresses.postgres, runs, show)
    except TimeoutError:
        logs = platform.home.logs
        raise LocalError(
            f"demo_too_slow: not all runs ended within {PATIENCE} s; look for errors in {logs}/worker.log and {logs}/ml_engine.log."
        ) from None
    screen.say(f"all runs are over {time.monotonic() - began:.1f} s after the start")
    if ready := [run.ended for run in runs if run.served and run.ended is not None]:
        screen.say(f"first recommendations {min(ready) - began:.1f} s after the start; scoring what is served ...")
    scores = await platform.scores([run.tenant for run in runs if run.served])
    screen.results(runs, scores, {tenant.name: f"{tenant.users:,} × {tenant.items:,}" for tenant in TENANTS}, platform.addresses)
    return runs


async def _dirty(platform: DemoPlatform, screen: Screen) -> bool:
    """The tenant with bad data; whether it was blocked, mended and let through as it should."""
    story = DirtyTenant(DIRTY.name, [tenant.name for tenant in TENANTS], platform.kept, platform.addresses, platform.warehouse, screen)
    try:
        async with asyncio.timeout(PATIENCE):
            return await story.tell()
    except TimeoutError:
        raise LocalError(
            f"demo_too_slow: the story of {DIRTY.name} took more than {PATIENCE} s; look for errors in {platform.home.logs}/worker.log."
        ) from None


async def _while_up(platform: DemoPlatform, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, unless the platform dies before."""
    task, died = asyncio.ensure_future(work), asyncio.ensure_future(platform.wait_until_stopped())
    try:
        await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise first_cause(platform.crash_reason or LocalError("the platform was stopped from outside."))
        return task.result()
    finally:
        task.cancel()
        died.cancel()
        await asyncio.gather(task, died, return_exceptions=True)


async def _signal() -> int:
    """The number of the first Ctrl-C, SIGTERM, or end of the terminal; later ones change nothing, for the stop is under way."""
    seen: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, seen.put_nowait, int(number))
    return await seen.get()


def _home() -> Path:
    try:
        return Settings().home
    except (ValueError, KeyError):
        from streams.cli.load import load  # it knows the sentence for each fault, but is slow to import
        from streams.cli.refusal import CliError

        try:
            return load().home
        except CliError as error:
            raise LocalError(str(error)) from None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Tidemill on this machine: three made-up tenants, from data to recommendations, and one with bad data."
    )
    parser.add_argument("--once", action="store_true", help="end by itself; exit status 0 only if all went as it should")
    parser.add_argument("--fresh", action="store_true", help="remove what earlier demos left in the home folder first")
    flags = parser.parse_args()
    screen = Screen()
    try:
        home = _home()
        if flags.fresh:
            asyncio.run(begin_anew(home, screen))
        return asyncio.run(demo(home, screen, once=flags.once))
    except LocalError as error:
        screen.say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
