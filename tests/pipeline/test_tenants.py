"""Tenants that come, change and go while their runs are under way."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from streams.ledger.connection import Connection
from streams.looks import now_and_then
from streams.requests import retry_run
from streams.settings import Settings, WarehouseSettings
from streams.tenant_settings import layered
from streams.tenant_sync import follow, sync_tenants
from streams.tenants import add_tenant, change_tenant, delete_tenant, resume_tenant, suspend_tenant
from tests.pipeline.test_batches import add
from tests.pipeline.toy import TOY, Neighbours
from tests.travel import Travel, travelling


@pytest.fixture
async def travel(ledger_dsn: str) -> AsyncIterator[Travel]:
    async with travelling(Travel(ledger_dsn, (TOY,), Neighbours())) as travel:
        await add(travel, "acme", "globex")
        yield travel


async def change(travel: Travel, move: Any, tenant: str = "acme") -> dict[str, Any]:
    return await move(travel.ledger, travel.runtime.pipelines, tenant, by="ann")  # type: ignore[no-any-return]


@pytest.mark.parametrize("move", [suspend_tenant, delete_tenant])
async def test_who_leaves_in_the_middle_of_a_run_has_it_ended_with_the_engine_asked(travel: Travel, move: Any) -> None:
    travel.request("acme")
    await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'")
    travel.request("acme")
    await travel.until(lambda runs: len(runs) == 2)
    answer = await change(travel, move)
    assert len(answer["cancelled"]) == 2
    runs = await travel.over(2)
    assert {run["state"] for run in runs} == {"cancelled"}
    assert len(travel.services.cancelled) == 1


async def test_nothing_revives_a_deleted_tenant(travel: Travel) -> None:
    travel.request("acme")
    await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'")
    [job] = await travel.rows("select job ->> 'job_id' as id from steps where stage = 'train'")
    await change(travel, delete_tenant)
    [run] = await travel.over(1)
    done = {"tenant_id": "acme", "job_id": job["id"], "status": "completed", "model_path": "models/acme/x"}
    travel.road.put("training.completed", json.dumps(done).encode())
    travel.request("acme")
    await travel.see("select 1 from inbox where fate = 'set_aside' and code = 'run_ended'")
    await travel.see("select 1 from dead_letters where code = 'tenant_deleted'")
    pipelines = travel.runtime.pipelines
    assert (await retry_run(travel.ledger, pipelines, run["run_id"], by="ann"))["code"] == "tenant_deleted"
    assert (await change(travel, resume_tenant))["code"] == "tenant_deleted"
    assert (await add_tenant(travel.ledger, "acme", name=None, by="ann"))["code"] == "tenant_deleted"
    await asyncio.sleep(0.3)
    assert [(each["run_id"], each["state"]) for each in await travel.runs()] == [(run["run_id"], "cancelled")]


async def test_settings_lie_over_defaults_and_say_where_they_come_from(travel: Travel) -> None:
    facts: dict[str, Any] = {"name": None, "owner": "ann", "labels": {"tier": "gold"}, "by": "ann"}
    assert (await change_tenant(travel.ledger, "acme", settings={"dispatch.weight": 3}, **facts))["result"] == "changed"
    assert (await change_tenant(travel.ledger, "acme", settings={"dispatch.weight": 3}, **facts))["result"] == "there"
    assert (await change_tenant(travel.ledger, "acme", settings={"dispatch.weight": 0}, **facts))["code"] == "bad_field"
    assert (await change_tenant(travel.ledger, "acme", settings={"dispatch.colour": "red"}, **facts))["code"] == "bad_field"
    [row] = await travel.rows("select owner, labels, settings from tenants where tenant_id = 'acme'")
    assert (row["owner"], json.loads(row["labels"])) == ("ann", {"tier": "gold"})
    shown = {each.name: (each.value, each.origin) for each in layered(json.loads(row["settings"]), Settings())}
    assert shown["dispatch.weight"] == (3, "tenant")
    assert shown["dispatch.priority"] == ("normal", "default")
    assert shown["quality.interaction_types"][1] == "setting quality.interaction_types"


NONSENSE = [{"concurrent": True, "weight": True}, {"concurrent": 3_000_000_000, "per_hour": 2**31 - 1, "weight": 1e-300}, {"burst": 5.5}]


@pytest.mark.parametrize("own", NONSENSE)
async def test_a_tenant_whose_row_holds_nonsense_stops_nobody(travel: Travel, own: dict[str, Any]) -> None:
    await travel.rows("update tenants set settings = $1 where tenant_id = 'acme'", json.dumps({"dispatch": own}))
    travel.request("acme")
    travel.request("globex")
    await travel.see("select 1 from steps where stage = 'train' and state = 'waiting'", rows=2)


async def test_sync_takes_over_what_changed_in_the_warehouse_and_nothing_else(travel: Travel) -> None:
    connection = await asyncpg.connect(travel.dsn)
    await connection.execute("create schema warehouse")
    await connection.execute("create table warehouse.tenants (tenant_id text, name text, status text)")
    rows = [("acme", "Acme", "active"), ("globex", None, "inactive"), ("new-one", "New", "active"), ("Not A Tenant", None, "active")]
    await connection.executemany("insert into warehouse.tenants values ($1, $2, $3)", rows)
    dsn = SecretStr(f"{travel.dsn}?options=-csearch_path%3Dwarehouse")
    pipelines = travel.runtime.pipelines
    pipelines.settings = travel.settings.model_copy(update={"warehouse": WarehouseSettings(dsn=dsn)})

    async def sync() -> dict[str, Any]:
        answer = await sync_tenants(travel.ledger, pipelines, by="ann")
        return {name: count for name, count in answer.items() if count}

    assert await sync() == {"result": "synced", "added": 1, "renamed": 1, "suspended": 1, "not_tenants": 1}
    assert await sync() == {"result": "synced", "unchanged": 3, "not_tenants": 1}
    await change(travel, suspend_tenant, "acme")
    assert (await sync())["unchanged"] == 3
    await connection.execute("update warehouse.tenants set status = 'active' where tenant_id = 'globex'")
    await connection.execute("delete from warehouse.tenants where tenant_id = 'new-one'")
    assert await sync() == {"result": "synced", "resumed": 1, "unchanged": 1, "not_tenants": 1, "missing": 1}
    found = {row["tenant_id"]: row["status"] for row in await connection.fetch("select tenant_id, status from public.tenants")}
    assert found == {"acme": "suspended", "globex": "active", "new-one": "active"}

    await connection.execute("insert into warehouse.tenants values ('by-itself', null, 'active')")
    looking = Connection(travel.dsn)
    looks = asyncio.create_task(now_and_then(looking, "tenants", timedelta(minutes=10), partial(follow, travel.ledger, pipelines)))
    assert await travel.see("select 1 from tenants where tenant_id = 'by-itself'")
    looks.cancel()
    await connection.execute("drop table warehouse.tenants")
    with capture_logs() as said:
        await follow(travel.ledger, pipelines)
    assert [entry["code"] for entry in said] == ["warehouse_unreadable"]
    await looking.close()
    await connection.close()
