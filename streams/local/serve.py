"""A stack in the foreground: until a signal, or until a server of it dies."""

import asyncio
import signal
import time

from streams.local.errors import LocalError, first_cause
from streams.local.stack import Say, Stack, running


async def serve(stack: Stack, say: Say) -> int:
    """Start, wait, stop; gives the exit status: 0 after a signal, otherwise what the error says."""
    stopping = asyncio.create_task(_signal())
    serving = asyncio.create_task(_run(stack, say))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        say("stopping")
        serving.cancel()
    stopping.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        return 0
    except LocalError as error:
        say(str(error))
        return error.exit_code
    return 0


async def _run(stack: Stack, say: Say) -> None:
    began = time.monotonic()
    async with running(stack):
        say(f"everything is up in {time.monotonic() - began:.1f} s: {stack.welcome}")
        await stack.wait_until_stopped()
        if stack.crash_reason is not None:
            raise first_cause(stack.crash_reason)


async def _signal() -> None:
    """Return at the first Ctrl-C, SIGTERM, or end of the terminal; later ones change nothing, for the stop is under way."""
    seen = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, seen.set)
    await seen.wait()
