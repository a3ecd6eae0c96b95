"""`tidemill tenants …`: who may train."""

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Door, Json, act, ask, in_time, me
from streams.cli.refusal import USAGE, CliError, accepted
from streams.cli.runs import Limit

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer, Ledger
    from streams.ledger.reader import Reader
    from streams.ledger.rows import Tenant
    from streams.tenant_settings import Setting

app = typer.Typer(no_args_is_help=True, help="Who may train: list, show, add, set, suspend, resume, delete, sync.")
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
    """Show one tenant: labels, and every setting with where it comes from.

    Example: tidemill tenants show acme
    """

    async def question(reader: "Reader") -> "tuple[Tenant, dict[str, str], list[Setting]]":
        from streams.cli.load import load
        from streams.tenant_settings import layered

        found, (labels, own) = await reader.tenant(tenant), await reader.tenant_facts(tenant)
        return found, labels, layered(own, load())

    found, labels, settings = ask(question)

    def people() -> None:
        words = [("labels", " ".join(f"{name}={value}" for name, value in sorted(labels.items())))]
        out.table(("tenant", found.tenant_id), [*_facts(found), *words])
        out.table(("setting", "value", "origin"), ((each.name, each.value, each.origin) for each in settings))

    from dataclasses import asdict

    out.show(asdict(found) | {"labels": labels, "settings": [each._asdict() for each in settings]}, as_json, people)


@app.command()
def add(tenant: TenantId, name: Annotated[str | None, typer.Option(help="A name for people.")] = None, as_json: Json = False) -> None:
    """Make a tenant known; one that is known already stays as it is.

    Example: tidemill tenants add acme --name "Acme Ltd"
    """

    async def move(door: Door) -> "Answer":
        from streams.tenants import add_tenant

        return await in_time(add_tenant(door.ledger, tenant, name=name, by=me()))

    _say(accepted(act(move)), as_json, "is a tenant now", "was a tenant before; nothing changed")


@app.command("set")
def set_(
    tenant: TenantId,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    owner: Annotated[str | None, typer.Option(help="Who is told when something is wrong.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set a label; NAME= takes it away.")] = None,
    setting: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set a setting, e.g. dispatch.weight=3; NAME= resets it.")] = None,
    as_json: Json = False,
) -> None:
    """Change a tenant's name, owner, labels and settings.

    Example: tidemill tenants set acme --owner ann --label tier=gold --setting dispatch.weight=3
    """
    labels, settings = _pairs(label), {key: _value(value) for key, value in _pairs(setting).items()}

    async def move(door: Door) -> "Answer":
        from streams.tenants import change_tenant

        if any(key.startswith("quality.") for key in settings):
            from streams.quality_limits import nonsense

            _, own = await door.reader.tenant_facts(tenant)
            if why := nonsense(door.pipelines.settings, own, settings):
                raise CliError("bad_limit", why, USAGE)
        return await in_time(change_tenant(door.ledger, tenant, name=name, owner=owner, labels=labels, settings=settings, by=me()))

    _say(accepted(act(move)), as_json, "was changed", "is so already; nothing changed")


@app.command()
def delete(tenant: TenantId, as_json: Json = False) -> None:
    """End a tenant for good: its runs are cancelled, its requests refused; what happened stays on record.

    Example: tidemill tenants delete acme
    """
    from streams.tenants import delete_tenant

    _say(_changed(delete_tenant, tenant), as_json, "is deleted", "was deleted before; nothing changed")


@app.command()
def sync(as_json: Json = False) -> None:
    """Take over who is there, and who is active, from the warehouse's table `tenants`.

    Example: tidemill tenants sync
    """

    async def move(door: Door) -> "Answer":
        from streams.tenant_sync import sync_tenants

        return accepted(await sync_tenants(door.ledger, door.pipelines, by=me()))

    answer = act(move)
    columns = ("added", "renamed", "suspended", "resumed", "unchanged", "not_tenants", "missing")
    out.show(answer, as_json, lambda: out.table(("what", "tenants"), ((each, answer[each]) for each in columns)))


@app.command()
def suspend(tenant: TenantId, as_json: Json = False) -> None:
    """Refuse a tenant's requests and cancel its runs.

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
        return in_time(change(ledger, door.pipelines, tenant, by=me()))

    return accepted(act(move))


def _say(answer: "Answer", as_json: bool, changed: str, same: str) -> None:
    out.show(answer, as_json, lambda: out.line(f"{answer['tenant_id']} {same if answer['result'] == 'there' else changed}"))


def _pairs(words: list[str] | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise CliError("bad_field", f"{word[:60]} is not NAME=VALUE", USAGE)
        found[name] = value or None
    return found


def _value(text: str | None) -> Any:
    """A setting's value: JSON where it is JSON, else the word itself."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _facts(tenant: "Tenant") -> list[tuple[str, str]]:
    from dataclasses import asdict

    return [(name.replace("_", " "), out.word(value)) for name, value in asdict(tenant).items() if name != "tenant_id"]
