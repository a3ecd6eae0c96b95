"""The view process: the Faust table app with the web application on its loop; `tidemill worker --role view`.

The web server listens before anything else is up, so that `/livez` is green and `/readyz` names the reason while Kafka or
PostgreSQL is away (docs/decisions/0004-view-process.md).
"""

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import faust
import structlog
from faust.contrib.asgi import AsgiService

from streams.clock import Clock
from streams.kafka import TopicsWrong, wait_for_cluster
from streams.ledger.connection import Connection
from streams.ledger.ledger import Ledger
from streams.ledger.reader import Reader
from streams.logs import set_up
from streams.pipelines import Pipelines
from streams.settings import Settings
from streams.table import TenantTable, make_view_app
from streams.web import Parts, make_web
from streams.web.checks import open_health
from streams.web.health import Unwell
from streams.web.tail import Journal
from streams.worker import Worker

log = structlog.get_logger(__name__)

DRAIN = 5
"""Seconds that requests in flight get after SIGTERM."""
READ = 5
"""Seconds a question to the ledger may take."""
NOT_THERE = 3
"""Exit status when something needed is missing."""
SAMPLE = 5
"""Seconds between looks at the ledger's clock."""


class Server(AsgiService):
    """Faust's ASGI service on a socket that is bound already: whether the port is free is known before anything starts."""

    mundane_level = "debug"

    def __init__(self, app: Any, listening: socket.socket, **kwargs: Any) -> None:
        host, port = listening.getsockname()[:2]
        options = {"timeout_graceful_shutdown": DRAIN, "access_log": False, "server_header": False, "lifespan": "off"}
        super().__init__(app, host=host, port=port, uvicorn_options=options, **kwargs)
        self._listening = listening

    async def on_start(self) -> None:
        self._server = self._create_server()
        self._serve_fut = self.add_future(self._server.serve(sockets=[self._listening]))


class ViewApp(faust.App):
    """The table app: serves pages first, then waits for the cluster, then keeps the table."""

    mundane_level = "debug"
    pipelines: Pipelines
    tenants: TenantTable
    listening: socket.socket
    _parts: Parts
    _stack: AsyncExitStack

    async def on_start(self) -> None:
        await super().on_start()
        settings = self.pipelines.settings
        self._stack = stack = AsyncExitStack()
        health = await stack.enter_async_context(open_health(settings, table=self._check_table))
        reading, tailing = self._connection("view"), self._connection("tail")
        clock = Clock()
        ledger = Ledger(settings.ledger, clock)
        ledger.start()
        stack.push_async_callback(ledger.stop)
        self._parts = Parts(
            pipelines=self.pipelines, reader=Reader(reading), ledger=ledger, journal=Journal(tailing), health=health, states=self.tenants.states
        )
        self.add_future(self._keep_clock(self._parts.reader, clock))
        web = make_web(self._parts, hosts=[settings.web.host])
        await self.add_runtime_dependency(Server(web, self.listening, loop=self.loop, beacon=self.beacon))
        log.info("pages are served", url=f"http://{settings.web.host}:{settings.web.port}/")
        try:
            await wait_for_cluster(settings.kafka)
        except TopicsWrong as wrong:
            log.error(str(wrong), code="topics_wrong")
            raise SystemExit(NOT_THERE) from None

    async def on_started(self) -> None:
        await super().on_started()
        log.info("view ready", tenants=len(self.tenants.table))

    async def on_stop(self) -> None:
        if hasattr(self, "_parts"):
            self._parts.stopping.set()
        await super().on_stop()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        if hasattr(self, "_stack"):
            await self._stack.aclose()

    def _connection(self, name: str) -> Connection:
        connection = Connection(self.pipelines.settings.ledger.dsn.get_secret_value(), statement_timeout=READ, name=f"tidemill-{name}")
        self._stack.push_async_callback(connection.close)
        return connection

    async def _keep_clock(self, reader: Reader, clock: Clock) -> None:
        """Requests are dated by the ledger's clock, as everything else is."""
        while True:
            with suppress(Exception):  # the ledger is away or not made yet: until it answers, this machine's clock will do
                clock.set((await reader.clock()).now(), timedelta(0))
            await asyncio.sleep(SAMPLE)

    async def _check_table(self) -> None:
        if not self.tenants.recovered:
            raise Unwell("the table is still being read back, or its partitions are being handed over; this takes seconds once Kafka answers")

    def _create_directories(self) -> None:
        """A table in memory keeps no files."""


def run(settings: Settings) -> int:
    """Run the view until it is told to stop. Exit code: 0 stopped, 1 it failed, 3 what it needs is not there."""
    set_up(settings)
    try:
        listening = socket.create_server((settings.web.host, settings.web.port))
    except OSError as error:
        address = f"{settings.web.host}:{settings.web.port}"
        sentence = "the address of the pages cannot be had; stop who has it, or set another TIDEMILL_WEB__PORT"
        log.error(sentence, code="port_taken", address=address, error=error.strerror)
        return NOT_THERE
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app = make_view_app(settings, ViewApp)
    assert isinstance(app, ViewApp)
    app.pipelines, app.listening = Pipelines.load(settings), listening
    app.tenants = TenantTable(app, settings.kafka.partitions)
    try:
        Worker(app, quiet=True, redirect_stdouts=False, loglevel=settings.log_level).execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        listening.close()
