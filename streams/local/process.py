"""One server of the local stack: prepared, started, watched and stopped as a mode service; each server's own file says the rest."""

import asyncio
import signal
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import mode

from streams.local import spawn
from streams.local.errors import LocalError, ServerDied
from streams.local.home import Home


class ServerProcess(mode.Service):
    """A process that the stack cannot do without: when it ends by itself, the stack stops."""

    abstract: ClassVar[bool] = True
    mundane_level = "debug"

    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when the supervisor is killed; SIGKILL cannot hang, so only a server that needs care asks for less."""
    stop_timeout: float = 10
    ready_timeout: float = 60

    def __init__(self, home: Home, what: str) -> None:
        super().__init__()
        self.home = home
        self.what = what
        self.log_file = home.logs / f"{what}.log"
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    async def prepare(self) -> None:
        """What must be there before the process starts."""

    @abstractmethod
    def argv(self) -> list[str]:
        """The command line."""

    def env(self) -> Mapping[str, str] | None:
        """Its environment; None: ours."""
        return None

    def life(self) -> spawn.Life:
        return spawn.Life(death_signal=self.death_signal)

    def cwd(self) -> str:
        return "/"

    async def until_ready(self) -> None:
        """Return once it truly serves; the process may die meanwhile, which ends the wait."""

    async def on_start(self) -> None:
        await self.prepare()
        began = time.monotonic()
        try:
            await self.launch()
            async with asyncio.timeout(self.ready_timeout):
                await self._ready_or_dead()
        except TimeoutError:
            await self._end()
            raise LocalError(self._sentence(f"was not ready after {self.ready_timeout:.0f} s")) from None
        except BaseException:
            await self._end()
            raise
        self.ready.set()
        self.announce(time.monotonic() - began)

    def announce(self, seconds: float) -> None:
        self.home.say(f"{self.what} ready in {seconds:.1f} s")

    async def launch(self) -> None:
        spawn.rotate(self.log_file)
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        keep = () if self.home.lock_fd is None else (self.home.lock_fd,)
        self.process = await spawn.spawn(self.argv(), self.log_file, life=self.life(), env=self.env(), cwd=self.cwd(), keep=keep)

    async def _ready_or_dead(self) -> None:
        assert self.process is not None
        ready = asyncio.ensure_future(self.until_ready())
        dead = asyncio.ensure_future(self.process.wait())
        try:
            await asyncio.wait({ready, dead}, return_when=asyncio.FIRST_COMPLETED)
            if dead.done():  # even if the probe was answered: then it was somebody else who did
                raise self.obituary()
            ready.result()
        finally:
            ready.cancel()
            dead.cancel()
            await asyncio.gather(ready, dead, return_exceptions=True)

    @mode.Service.task
    async def watch(self) -> None:
        while not self.should_stop:
            assert self.process is not None
            await self.process.wait()
            if not self.should_stop:
                await self.on_death()

    async def on_death(self) -> None:
        """It ended by itself: take the stack down with it."""
        await self.crash(self.obituary())

    async def crash(self, reason: BaseException) -> None:
        """Mark us and everybody above as crashed; mode would log a traceback too, but ours are sentences and are said once, by `up`."""
        for node in self.beacon.walk():
            if isinstance(node.data, mode.Service):
                node.data._crash(reason)

    def obituary(self) -> ServerDied:
        assert self.process is not None
        return ServerDied(self._sentence(f"ended with {self._how(self.process.returncode)}"))

    def _sentence(self, fate: str) -> str:
        last = spawn.tail(self.log_file, since=self._log_start)
        return f"{self.what} {fate}; see {self.log_file}" + (f". Its last lines:\n{last}" if last else ", which is empty.")

    @staticmethod
    def _how(status: int | None) -> str:
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"

    async def on_stop(self) -> None:
        await self._end()

    async def _end(self) -> None:
        if self.process is not None:
            await spawn.end(self.process, self.stop_signal, patience=self.stop_timeout)
