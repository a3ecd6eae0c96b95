"""What the routes work with, opened by the view process and handed to `make_web`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request

from schemas.tenant import is_tenant_id
from streams.ledger.ledger import Ledger
from streams.ledger.reader import Reader
from streams.pipelines import Pipelines
from streams.table import States
from streams.web.errors import Problem
from streams.web.guard import READING
from streams.web.health import Health
from streams.web.tail import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The neighbours of the web application."""

    pipelines: Pipelines
    reader: Reader
    ledger: Ledger
    journal: Journal
    health: Health
    states: Callable[[str], States | None]
    """A tenant's entry in the Faust table; None when this process cannot know it."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is told to stop: streams to browsers end then."""


def _parts(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


def _tenant(tenant_id: Annotated[str, Path(max_length=200)]) -> str:
    """The one place where the web application takes a tenant id from an address."""
    if not is_tenant_id(tenant_id):
        raise Problem(422, "bad_tenant", "a tenant id is 2 to 63 of a-z, 0-9 and '-', and starts with a letter or digit")
    return tenant_id


Use = Annotated[Parts, Depends(_parts)]


async def refuse_while_set_back(request: Request, use: Use) -> None:
    """503 to whatever changes something in a ledger that was lost or set back: a refill would find it in its way."""
    if request.method not in READING and (reason := await use.reader.set_back()):
        raise Problem(503, "reconciling", reason)


TenantPath = Annotated[str, Depends(_tenant)]
"""A tenant id from the address, checked."""
