-- What CLI, API and pages read. Each block is `-- name(parameters): the question it answers`, loaded by name (queries.py).
-- Durations are seconds; `now` is the ledger's clock with its test offset, so that pages and runtime agree about what is due.

-- now(): the ledger's time and how far tests have moved it.
select clock_timestamp() as now, ahead from clock;

-- runs(tenant, state, pipeline, limit): the newest runs.
select run_id, tenant_id, pipeline, state, stage, requested_at, finished_at, case when finished_at is not null then state end as outcome, reason,
       code, causes, warnings, started_at, pipeline_version, version
from runs
where ($1::text is null or tenant_id = $1) and ($2::text is null or state = $2) and ($3::text is null or pipeline = $3)
order by requested_at desc, run_id
limit $4;

-- runs_failed(code, since): finished runs with this code that are still their tenant's newest of the pipeline, oldest first.
select run_id, tenant_id, pipeline, state, stage, requested_at, finished_at, state as outcome, reason,
       code, causes, warnings, started_at, pipeline_version, version
from runs r
where code = $1 and finished_at >= $2 and state in ('failed', 'timed_out', 'cancelled', 'blocked')
  and not exists (select 1 from runs n where n.tenant_id = r.tenant_id and n.pipeline = r.pipeline and n.requested_at > r.requested_at)
order by finished_at;

-- run(run): one run.
select run_id, tenant_id, pipeline, state, stage, requested_at, finished_at, case when finished_at is not null then state end as outcome, reason,
       code, causes, warnings, started_at, pipeline_version, version, request
from runs
where run_id = $1;

-- runs_between(low, high): the first runs whose ids lie in a range: those that begin with a prefix.
select run_id as id from runs where run_id between $1 and $2 order by run_id limit 3;

-- steps(run): the steps of a run in the order they became ready, with who works on them.
select s.stage, s.state, s.round, s.attempt, s.takeovers, s.ready_at, s.started_at, s.waiting_at, s.finished_at, s.due_at, s.deadline,
       extract(epoch from s.started_at - s.ready_at)::float8 as queued,
       extract(epoch from coalesce(s.finished_at, clock_timestamp() + c.ahead) - s.started_at)::float8 as seconds,
       extract(epoch from coalesce(s.finished_at, clock_timestamp() + c.ahead) - s.waiting_at)::float8 as waited,
       s.waiting_for, s.code, s.error, s.worker as worker_id, w.slot, s.job ->> 'job_id' as job_id,
       s.input_type, s.input, s.output_type, s.output
from steps s left join workers w on w.worker_id = s.worker cross join clock c
where s.run_id = $1
order by s.ready_at, s.stage;

-- causes(run): the requests that made the run, or were merged into it.
select event_id, at, data as request from causes where run_id = $1 order by at, event_id;

-- effects(run): the commands neighbours answered for the run.
select key, stage, round, command, status, sent_at, at from effects where run_id = $1 order by id;

-- events(run): what happened to the run: its journal, and the foreign events that named it, those set aside included.
select at, seq, kind, topic, event_id, causation, null::integer as partition, null::bigint as "offset", null as code, data from journal where run_id = $1
union all
select at, null, fate, topic, event_id, null, partition, "offset", code, null from inbox where run_id = $1
order by at, seq nulls first;

-- tenants(tenant, limit): tenants with their newest run and the version that serves.
select t.tenant_id, t.name, t.status, t.owner, t.created_at, r.run_id as last_run, r.state as last_state, r.requested_at as last_requested_at,
       r.finished_at as last_finished_at, v.number as live_version, v.live_at
from tenants t
left join lateral (select * from runs where tenant_id = t.tenant_id order by requested_at desc limit 1) r on true
left join versions v on v.tenant_id = t.tenant_id and v.state = 'live'
where ($1::text is null or t.tenant_id = $1) and t.status <> 'deleted'
order by t.tenant_id
limit $2;

-- versions(tenant): every model version of a tenant, newest first.
select number, state, run_id, round, model_path, index_path, instead_of, reason, created_at, live_at, retired_at
from versions
where tenant_id = $1
order by number desc;

-- dead_letters(state, tenant, code, limit): what could not be used, newest first.
select id, at, topic, partition, "offset", tenant_id, code, sentence, state, size, settled_at
from dead_letters
where ($1::text is null or state = $1) and ($2::text is null or tenant_id = $2) and ($3::text is null or code = $3)
order by at desc, id
limit $4;

-- dead_letter(id): one of them with its bytes.
select id, at, topic, partition, "offset", tenant_id, code, sentence, state, size, settled_at, key, value, sha256, headers, cluster, timestamp_ms
from dead_letters where id = $1;

-- dead_letters_between(low, high): the first dead letters whose ids lie in a range.
select id from dead_letters where id between $1 and $2 order by id limit 3;

-- workers(): the last worker of each slot that was seen within a day; `lease` is how long it still counts as alive.
select * from (
    select distinct on (w.slot) w.slot, w.worker_id, w.host, w.pid, w.started_at, w.stopped_at, w.lease_until > clock_timestamp() as alive,
           greatest(extract(epoch from nullif(w.lease_until, '-infinity') - clock_timestamp()), 0)::float8 as lease,
           (select count(*) from steps s where s.worker = w.worker_id) as steps
    from workers w
    where w.started_at > clock_timestamp() - interval '1 day' or w.lease_until > clock_timestamp() - interval '1 day'
    order by w.slot, w.started_at desc
) newest
order by slot;

-- gaps(): offsets that are not accounted for.
select topic, partition, first, past, state, seen_at from gaps where state = 'open' order by seen_at, topic, partition, first;

-- backlog(): what waits to be published, to be looked at, to be done, to be mended.
select (select count(*) from outbox) as outbox,
       (select extract(epoch from clock_timestamp() - min(created_at))::float8 from outbox) as outbox_age,
       (select count(*) from unpublishable) as unpublishable,
       (select count(*) from dead_letters where state = 'open') as dead_letters,
       (select count(*) from gaps where state = 'open') as gaps,
       (select count(*) from steps s, clock c where s.worker is null and s.state = 'ready' and s.due_at < clock_timestamp() + c.ahead) as steps_due,
       (select count(*) from incidents where state = 'open') as incidents;

-- set_back(): why nothing may change now: the ledger was lost or set back.
select reason from reconciling;

-- sweep(): what became of index folders that nothing names.
select ended_at, folders, bytes, waiting, unknown from sweeps;

-- run_counts(pipeline): how many runs are in each state.
select state, count(*) as runs from runs where ($1::text is null or pipeline = $1) group by state order by state;

-- standing(pipeline): whether it is paused for everybody, when one of its schedules is due next, and its run that ended last.
select exists (select 1 from pauses where ended_at is null and tenant_id is null and pipeline = $1) as paused,
       (select min(next_due) from schedules where pipeline = $1 and not paused) as next_due,
       l.run_id as last_run, l.tenant_id as last_tenant, l.state as last_state, l.finished_at as last_ended
from (values (1)) one
left join lateral (select * from runs where pipeline = $1 and finished_at is not null order by finished_at desc, run_id limit 1) l on true;

-- schema(): whether the ledger's tables are there.
select to_regclass('clock') is not null as there;

-- schedules(name, tenant, limit): all schedules, those for everybody first; or the one of this name, or a tenant's own.
select s.schedule_id, s.name, s.pipeline, s.tenant_id, s.cron, s.zone, s.jitter, s.missed, s.catch_up, s.overlap, s.starts_at, s.ends_at, s.paused,
       s.request, s.next_due, s.revision, s.changed_by, s.changed_at, (select max(due) from slots where slots.schedule_id = s.schedule_id) as last_due
from (select * from schedules where ($1::text is null or name = $1) and ($2::text is null or tenant_id = $2)
      order by tenant_id is not null, name limit $3) s
order by s.tenant_id is not null, s.name;

-- schedule_count(tenant): how many schedules there are; or a tenant's own.
select count(*) from schedules where $1::text is null or tenant_id = $1;

-- slots(schedules, limit): the newest slots of each of some schedules.
select l.* from unnest($1::uuid[]) s(schedule_id) cross join lateral (
    select schedule_id, due, tenant_id, fire_at, state, reason, run_id, fired_at from slots where schedule_id = s.schedule_id order by due desc, tenant_id limit $2
) l order by l.schedule_id, l.due desc, l.tenant_id;

-- schedule_changes(name, limit): who changed a schedule of this name, those that were deleted included, newest first.
select revision, what, changed_by, changed_at, rule from schedule_changes where name = $1 order by changed_at desc, revision desc limit $2;

-- pauses(past too, limit): pauses in force, the newest first; and those that are over.
select pipeline, tenant_id, reason, paused_by, since, ended_by, end_reason, ended_at from pauses
where $1 or ended_at is null
order by ended_at desc nulls first, since desc limit $2;

-- tenant_facts(tenant): a tenant's labels and own settings.
select labels, settings from tenants where tenant_id = $1;

-- why(run): all that can keep a run from going on, in one row.
select r.run_id, r.tenant_id, r.pipeline, r.state, r.stage, r.code, r.reason, r.finished_at, r.requested_at, t.status, clock_timestamp() + c.ahead as now,
       s.state as step_state, s.attempt, s.round, s.due_at, s.deadline, s.limit_name, s.waiting_for, s.code as step_code, s.job ->> 'job_id' as job_id, s.turn,
       s.class, s.ready_at, w.slot, extract(epoch from w.lease_until - clock_timestamp())::float8 as lease, t.settings -> 'dispatch' as dispatch,
       begins(s) as first, case when r.state = 'pending' then h.active_run end as active_run,
       p.pipeline as pause_pipeline, p.tenant_id as pause_tenant, p.reason as pause_reason, p.paused_by, p.since as paused_since,
       (select count(*) from steps q where q.worker is null and q.state = 'ready' and q.due_at <= clock_timestamp() + c.ahead
          and (q.class, q.turn) < (s.class, s.turn)) as ahead,
       (select count(*) from workers where lease_until > clock_timestamp()) as workers,
       (select count(*) from limit_slots l where l.name = s.limit_name) as limit_held,
       (select array_agg(x.tenant_id order by l.n) from limit_slots l join runs x on x.run_id = l.run_id where l.name = s.limit_name) as limit_holders,
       (select count(*) from pipeline_heads g join steps q on q.run_id = g.active_run
          where g.tenant_id = r.tenant_id and (q.worker is not null or q.state = 'waiting')) as in_hand,
       array(select at from begun(r.tenant_id, clock_timestamp() + c.ahead - interval '1 hour') at order by at) as begun_at
from runs r
join tenants t using (tenant_id)
cross join clock c
left join steps s on s.run_id = r.run_id and s.stage = r.stage
left join workers w on w.worker_id = s.worker
left join pipeline_heads h on h.tenant_id = r.tenant_id and h.pipeline = r.pipeline
left join lateral (select * from pauses where ended_at is null and (tenant_id is null or tenant_id = r.tenant_id)
    and (pipeline is null or pipeline = r.pipeline) order by since limit 1) p on true
where r.run_id = $1;

-- covering(tenant): the schedules that ask for a tenant's runs, each with its next time for it and what became of the last. Slots lie in the order of their
-- due times: these are gone through from the newest on, a look-up each, a thousand at most, until one has a slot of this tenant.
select s.name, s.pipeline, s.paused, s.next_due + s.jitter * place($1) as next_fire, l.due as last_due, l.state as last_state, l.reason as last_reason,
       l.run_id as last_run
from schedules s
left join lateral (
    with recursive dues as (
        select (select max(due) from slots where schedule_id = s.schedule_id) as due, 1 as n
        union all
        select (select max(due) from slots where schedule_id = s.schedule_id and due < d.due), n + 1 from dues d
        where n < 1000 and d.due is not null and not exists (select 1 from slots where schedule_id = s.schedule_id and due = d.due and tenant_id = $1)
    )
    select o.* from dues d join slots o on o.schedule_id = s.schedule_id and o.due = d.due and o.tenant_id = $1 limit 1
) l on true
where covers(s, $1)
order by s.pipeline, s.name;

-- arrival(tenant): what the last look at its files found, and why a training was or was not asked for.
select fingerprint, files, bytes, new_bytes, code, reason, looked_at from arrivals where tenant_id = $1;

-- arrival_decisions(tenant, limit): the answers before, newest first.
select at, code, reason, run_id from arrival_decisions where tenant_id = $1 order by at desc limit $2;

-- open_runs(tenant): its runs that are not over, in the order in which they will end.
select run_id from runs where tenant_id = $1 and state in ('pending', 'running', 'cancelling') order by pipeline, requested_at;

-- pauses_of(tenant): the pauses that cover it now.
select pipeline, tenant_id, reason, paused_by, since from pauses where ended_at is null and (tenant_id is null or tenant_id = $1) order by since;

-- backfills(id or null, limit): backfills with how far they are, newest first.
select b.backfill_id, b.schedule, b.pipeline, b.first_day, b.last_day, b.chosen, b.at_once, b.state, b.changed_by, b.made_at, b.changed_at,
       p.slots, p.planned, p.open, p.succeeded, p.failed, p.skipped
from backfills b cross join lateral (
    select count(*) as slots, count(*) filter (where s.state in ('planned', 'due', 'held')) as planned,
           count(*) filter (where s.state = 'fired' and r.finished_at is null) as open,
           count(*) filter (where s.state = 'fired' and r.state in ('succeeded', 'succeeded_with_warnings')) as succeeded,
           count(*) filter (where s.state = 'fired' and r.finished_at is not null and r.state not in ('succeeded', 'succeeded_with_warnings')) as failed,
           count(*) filter (where s.state = 'skipped') as skipped
    from slots s left join runs r on r.run_id = s.run_id where s.backfill_id = b.backfill_id
) p
where $1::uuid is null or b.backfill_id = $1
order by b.made_at desc, b.backfill_id limit $2;

-- backfills_between(low, high): the first backfills whose ids lie in a range.
select backfill_id as id from backfills where backfill_id between $1 and $2 order by backfill_id limit 3;
