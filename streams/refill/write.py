"""Writes one tenant's mended journal and all that follows from it, in one transaction: rows, inbox, jobs, versions."""

from collections.abc import Iterable
from typing import Any

import asyncpg

from schemas.states import StepState
from schemas.training import IndexBuilt, ModelDeployed
from streams.folded import Data, Entry
from streams.pipelines import Pipelines
from streams.proof.rebuild import Rebuilt, insert, rebuild_one
from streams.refill.mend import Mended
from streams.refill.read import Known

_TENANT = "insert into tenants (tenant_id) values ($1) on conflict do nothing"
_HEAD = "insert into tenant_heads (tenant_id) values ($1) on conflict do nothing"
_LOCK = "select seq from tenant_heads where tenant_id = $1 for update"
_SEQ = "update tenant_heads set seq = $2 where tenant_id = $1"
_INBOX = """
insert into inbox (event_key, tenant_id, topic, partition, "offset", event_id, body, run_id, fate, at)
values ($1, $2, $3, $4, $5, $6, decode($7, 'hex'), $8, $9, $10) on conflict do nothing
"""
_CAUSE = "insert into causes (run_id, event_id, at, data) values ($1, $2, $3, $4) on conflict do nothing"
_JOB = """
insert into jobs (engine, job_id, tenant_id, run_id, stage, round) values ($1, $2, $3, $4, $5, $6)
on conflict (engine, job_id, tenant_id) do update set run_id = excluded.run_id, stage = excluded.stage, round = excluded.round
"""
_ENDED_JOB = """
update jobs set completion = $4, completion_id = $5, completed_at = $6, failed = $7
where run_id = $1 and stage = $2 and round = $3 and completed_at is null
"""
_BUILT = "select run_id, output from steps where run_id = any($1) and output_type = $2"
_RETIRE = "update versions set state = 'retired', retired_at = $3 where tenant_id = $1 and state = 'live' and number <> $2"
_VERSION = """
insert into versions (tenant_id, number, run_id, round, model_path, index_path, state, created_at, live_at)
values ($1, $2, $3, $4, $5, $6, 'live', $7, $7)
on conflict (tenant_id, number) do update set state = 'live', live_at = coalesce(versions.live_at, excluded.live_at), retired_at = null
"""
_TELL = """
select emit(coalesce(j.event_id, gen_random_uuid()), j.topic, r.tenant_id, r.run_id, null, r.version, r.finished_at, r.traceparent,
            case when j.topic is not null then j.data::text end, true)
from runs r left join journal j on j.tenant_id = r.tenant_id and j.seq = r.version and j.kind = 'finished' where r.run_id = any($1)
"""
_SHOW = """
insert into projection_queue (run_id, version)
select run_id, version from runs where run_id = any($1) and pipeline = 'training' and finished_at is not null on conflict do nothing
"""
"""The trigger sees runs that end; these are written when they have ended."""


class Diverged(Exception):
    """The ledger went on after it was set back: its numbers stand for something else than those on Kafka."""


async def write(raw: "asyncpg.Connection[Any]", mended: Mended, known: Iterable[Known], before: int, pipelines: Pipelines) -> Rebuilt:
    """All of it or nothing. `before`: the tenant's number when its journal was read."""
    async with raw.transaction():
        await raw.execute(_TENANT, mended.tenant_id)
        await raw.execute(_HEAD, mended.tenant_id)
        if await raw.fetchval(_LOCK, mended.tenant_id) != before:
            raise Diverged("somebody works on this ledger: stop the workers, then run the command again")
        touched = list({entry.run_id for entry in mended.entries if entry.run_id}.union(mended.told))
        built = {row["run_id"]: row["output"] for row in await raw.fetch(_BUILT, touched, IndexBuilt.topic)}
        await insert(raw, "journal", [_row(entry) for entry in mended.entries])
        await raw.execute(_SEQ, mended.tenant_id, mended.state.seq)
        rebuilt = await rebuild_one(raw, mended.tenant_id)
        if not rebuilt.done:
            raise RuntimeError(f"the mended journal of {mended.tenant_id} does not fold, nothing was changed; report it: {rebuilt.differences[0]}")
        taken = {entry.seq for entry in mended.entries if entry.kind in ("accepted", "merged")}
        for each in known:
            if each.entry.seq in taken:
                await _request(raw, each)
        await _jobs(raw, mended.entries, pipelines)
        await _versions(raw, mended.entries, built)
        await raw.execute(_TELL, mended.told)
        await raw.execute(_SHOW, touched)
    return rebuilt


def _row(entry: Entry) -> Data:
    return {name: getattr(entry, name) for name in Entry.__slots__}


async def _request(raw: "asyncpg.Connection[Any]", known: Known) -> None:
    """The request is not taken a second time, and stays named among the causes of its run."""
    entry, inbox = known
    cause = entry.id("cause")
    await raw.execute(_CAUSE, entry.run_id, cause, entry.at, entry.part("request"))
    if inbox:
        place = (inbox["topic"], inbox["partition"], inbox["offset"])
        fate = "run" if entry.kind == "accepted" else "merged"
        await raw.execute(_INBOX, inbox["event_key"], entry.tenant_id, *place, cause, inbox["body"], entry.run_id, fate, entry.at)


async def _jobs(raw: "asyncpg.Connection[Any]", entries: Iterable[Entry], pipelines: Pipelines) -> None:
    """Which step waits for which job, and how those ended that are over: a late word on one is set aside."""
    watchers = {stage.name: stage.watcher for pipeline in pipelines.all for stage in pipeline.stages if stage.watcher}
    for entry in entries:
        watcher = watchers.get(str(entry.data.get("stage")))
        if entry.kind != "step" or watcher is None:
            continue
        place = (entry.run_id, entry.data["stage"], entry.data["round"])
        if entry.data["state"] == StepState.WAITING:
            await raw.execute(_JOB, watcher.engine, entry.part("job")["job_id"], entry.tenant_id, *place)
        elif entry.data.get("output") is not None:
            failed = entry.data["state"] == StepState.READY
            await raw.execute(_ENDED_JOB, *place, entry.data["output"], entry.causation if failed else entry.id("event"), entry.at, failed)


async def _versions(raw: "asyncpg.Connection[Any]", entries: Iterable[Entry], built: dict[Any, Data]) -> None:
    """Numbers and paths of what went live, as far as the journal tells; the newest is live. `built`: run -> the index that it had before."""
    for entry in entries:
        if entry.kind != "step" or entry.data.get("state") != StepState.DONE:
            continue
        output = entry.data.get("output") or {}
        if entry.data.get("output_type") == IndexBuilt.topic:
            built[entry.run_id] = output
        elif entry.data.get("output_type") == ModelDeployed.topic and (index := built.get(entry.run_id)):
            paths = (index.get("model_path") or "", index["index_path"])
            await raw.execute(_RETIRE, entry.tenant_id, output["version"], entry.at)
            await raw.execute(_VERSION, entry.tenant_id, output["version"], entry.run_id, entry.data["round"], *paths, entry.at)
