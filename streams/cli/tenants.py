"""`tidemill tenants …`: who may train."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, accepted, act, ask, in_time, me
from streams.cli.runs import Limit

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer, Ledger
    from streams.ledger.rows import Tenant

app = typer.Typer(no_args_is_help=True, help="Who may train: list, show, add, suspend, resume.")
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant id.")]


@app.command("list")
def list_(limit: Limit = 1000, as_json: Json = False) -> None:
    """List tenants with their last run and the version that serves.

    Example: tidemill tenants list
    """
    found = ask(lambda reader: reader.tenants(limit))
    columns = ("tenant", "name", "status", "last run", "state", "requested (UTC)", "live version", "since (UTC)")
    rows = ((t.tenant_id, t.name, t.status, out.short(t.last_run), t.last_state, t.last_requested_at, t.live_version, t.live_at) for t in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


@app.command()
def show(tenant: TenantId, as_json: Json = False) -> None:
    """Show one tenant.

    Example: tidemill tenants show acme
    """
    found = ask(lambda reader: reader.tenant(tenant))
    out.show(found, as_json, lambda: out.table(("tenant", found.tenant_id), _facts(found)))


@app.command()
def add(tenant: TenantId, name: Annotated[str | None, typer.Option(help="A name for people.")] = None, as_json: Json = False) -> None:
    """Make a tenant known; one that is known already stays as it is.

    Example: tidemill tenants add acme --name "Acme Ltd"
    """

    async def move(door: Door) -> "Answer":
        from streams.tenants import add_tenant

        return await in_time(add_tenant(door.ledger, tenant, name=name, by=me()))

    _say(accepted(act(move)), as_json, "is a tenant now", "was a tenant before; nothing changed")


@app.command()
def suspend(tenant: TenantId, as_json: Json = False) -> None:
    """Refuse a tenant's requests; a run under way goes on.

    Example: tidemill tenants suspend acme
    """
    from streams.tenants import suspend_tenant

    _say(_changed(suspend_tenant, tenant), as_json, "is suspended: its requests are refused", "was suspended before; nothing changed")


@app.command()
def resume(tenant: TenantId, as_json: Json = False) -> None:
    """Accept a tenant's requests again.

    Example: tidemill tenants resume acme
    """
    from streams.tenants import resume_tenant

    _say(_changed(resume_tenant, tenant), as_json, "is active: its requests are accepted", "was active before; nothing changed")


def _changed(change: "Callable[..., Awaitable[Answer]]", tenant: str) -> "Answer":
    def move(door: Door) -> "Awaitable[Answer]":
        ledger: Ledger = door.ledger
        return in_time(change(ledger, tenant, by=me()))

    return accepted(act(move))


def _say(answer: "Answer", as_json: bool, changed: str, same: str) -> None:
    out.show(answer, as_json, lambda: out.line(f"{answer['tenant_id']} {same if answer['result'] == 'there' else changed}"))


def _facts(tenant: "Tenant") -> list[tuple[str, str]]:
    from dataclasses import asdict

    return [(name.replace("_", " "), out.word(value)) for name, value in asdict(tenant).items() if name != "tenant_id"]
