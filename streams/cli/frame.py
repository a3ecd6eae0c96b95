"""What every verb stands on: settings, a question to the ledger, a move of the door."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from streams.cli.load import load
from streams.cli.refusal import NOT_THERE, CliError

if TYPE_CHECKING:
    from streams.ledger.ledger import Ledger
    from streams.ledger.reader import Reader
    from streams.pipelines import Pipelines
    from streams.settings import Settings

R = TypeVar("R")
PATIENCE = 20.0
"""Seconds a move may take, as long as PostgreSQL answers at all."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class Door(NamedTuple):
    """What a verb that changes something may use."""

    ledger: "Ledger"
    pipelines: "Pipelines"
    reader: "Reader"


def settings() -> "Settings":
    """The settings, with logs on stderr: warnings only, unless a level was asked for."""
    from streams.logs import set_up

    found = load()
    if "log_level" in found.model_fields_set:
        set_up(found)
    else:
        set_up(found.model_copy(update={"log_level": "warning"}))
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say of an absent broker, our sentence says
    return found


def me() -> str:
    """Who typed it, for the journal."""
    return f"{os.environ.get('USER') or 'somebody'} (cli)"


def run(main: Coroutine[Any, Any, R]) -> R:
    return asyncio.run(main)


def ask(question: "Callable[[Reader], Awaitable[R]]") -> R:
    """The answer of the ledger to a question."""

    async def main() -> R:
        async with reading(settings()) as reader:
            return await question(reader)

    return run(main())


def act(move: "Callable[[Door], Awaitable[R]]") -> R:
    """What a move of the door came to."""

    async def main() -> R:
        async with acting(settings()) as door:
            return await move(door)

    return run(main())


@asynccontextmanager
async def reading(settings: "Settings") -> "AsyncIterator[Reader]":
    """A reader on a connection of its own; an absent ledger ends the command with status 3."""
    from streams.cli.trouble import of_ledger
    from streams.ledger.connection import Connection
    from streams.ledger.reader import NotFound, Reader

    connection = Connection(settings.ledger.dsn.get_secret_value(), statement_timeout=settings.ledger.statement_timeout, name="tidemill-cli")
    try:
        yield Reader(connection)
    except NotFound as error:
        raise CliError(error.code, error.sentence) from None
    except Exception as error:
        if trouble := of_ledger(error, settings):
            raise trouble from None
        raise
    finally:
        await connection.close()


@asynccontextmanager
async def acting(settings: "Settings") -> AsyncIterator[Door]:
    """The door, once the ledger has answered; its clock is the ledger's. Set back, it takes no moves: a refill would find them in its way."""
    from streams.ledger.ledger import Ledger

    async with reading(settings) as reader:
        clock = await reader.clock()
        if reason := await reader.set_back():
            raise CliError("reconciling", reason)
        ledger = Ledger(settings.ledger, clock)
        ledger.start()
        try:
            yield Door(ledger, load_pipelines(settings), reader)
        finally:
            await ledger.stop()


async def unless_held(door: Door) -> None:
    """What the API answers with 503 ends the command too: too much waits for Kafka."""
    if held := await door.reader.hold(door.pipelines.settings.runtime.outbox_max):
        raise CliError(held.code, held.sentence)


def load_pipelines(settings: "Settings") -> "Pipelines":
    """The pipelines of the setting; whatever keeps them from being imported is named."""
    from streams.pipelines import Pipelines

    try:
        return Pipelines.load(settings)
    except Exception as error:  # the module may be anybody's
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
        raise CliError(
            "agents_broken", f"the pipelines {settings.pipelines} cannot be loaded ({why}); correct the module, or the setting pipelines"
        ) from None


async def in_time(answer: Awaitable[R]) -> R:
    """The answer, or status 3: the ledger itself would wait for PostgreSQL as long as it takes."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer
    except TimeoutError:
        sentence = f"the ledger did not answer within {PATIENCE:g} s, so it is not known whether this was done; look with `tidemill runs`"
        raise CliError("ledger_away", sentence, NOT_THERE) from None
