-- What operators say about schedules, tenants and pipelines, with who said it and why.

-- Every change of a schedule, its end included: who did it, and what it was from then on.
create table schedule_changes (
    schedule_id uuid not null,
    revision    integer not null,
    name        text not null,
    what        text not null check (what in ('created', 'changed', 'paused', 'resumed', 'deleted')),
    rule        jsonb not null,
    changed_by  text not null,
    changed_at  timestamptz not null,
    primary key (schedule_id, revision)
);
create index schedule_changes_name on schedule_changes (name, changed_at desc);

-- note_schedule(schedule, what, by, now): the schedule's next revision, and its row in the history.
create function note_schedule(p_schedule uuid, p_what text, p_by text, p_now timestamptz) returns integer language plpgsql as $$
declare s schedules;
begin
    update schedules set revision = revision + (p_what <> 'created')::int, changed_by = p_by, changed_at = p_now
    where schedule_id = p_schedule returning * into s;
    insert into schedule_changes (schedule_id, revision, name, what, rule, changed_by, changed_at)
    values (s.schedule_id, s.revision, s.name, p_what, to_jsonb(s) - '{schedule_id,revision,name,changed_by,changed_at,next_due}'::text[], p_by, p_now);
    return s.revision;
end $$;

-- default_schedule(name, pipeline, cron, now): made if there is none of this name, paused.
create function default_schedule(p_name text, p_pipeline text, p_cron text, p_now timestamptz) returns boolean language plpgsql as $$
declare v_id uuid;
begin
    insert into schedules (name, pipeline, cron) values (p_name, p_pipeline, p_cron) on conflict (name) do nothing returning schedule_id into v_id;
    if v_id is null then return false; end if;
    perform note_schedule(v_id, 'created', 'init', p_now);
    return true;
end $$;

-- drop_schedule(schedule, by, now): it fires no more; slots that were due are skipped, all slots and the history stay.
create function drop_schedule(p_schedule uuid, p_by text, p_now timestamptz) returns void language plpgsql as $$
begin
    perform note_schedule(p_schedule, 'deleted', p_by, p_now);
    update slots set state = 'skipped', reason = 'the schedule was deleted', fired_at = p_now where schedule_id = p_schedule and state in ('planned', 'due', 'held');
    delete from schedules where schedule_id = p_schedule;
end $$;

-- Who may not begin anything: a pipeline, a tenant, or a pipeline of a tenant. Own truth; pipeline_heads.paused follows it, for the hot path.
create table pauses (
    id          bigint generated always as identity primary key,
    pipeline    text,                    -- null: every pipeline of the tenant
    tenant_id   text references tenants, -- null: every tenant of the pipeline
    reason      text not null,
    paused_by   text not null,
    since       timestamptz not null,
    ended_by    text,
    end_reason  text,
    ended_at    timestamptz,
    check (pipeline is not null or tenant_id is not null)
);
create unique index pauses_open on pauses (tenant_id, pipeline) nulls not distinct where ended_at is null;
create index slots_held on slots (tenant_id) where state = 'held';

-- is_paused(tenant, pipeline): whether a pause covers them now.
create function is_paused(p_tenant text, p_pipeline text) returns boolean language sql stable as $$
    select exists (select 1 from pauses where ended_at is null and (tenant_id is null or tenant_id = p_tenant) and (pipeline is null or pipeline = p_pipeline))
$$;

-- A tenant's first run of a pipeline that is paused: the lock is the pause's, so that neither misses the other.
create function new_head() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(hashtext('pauses'));
    new.paused := is_paused(new.tenant_id, new.pipeline);
    return new;
end $$;
create trigger heads_paused before insert on pipeline_heads for each row when (new.paused is null) execute function new_head();

-- set_pause(pipeline or null, tenant or null, reason, by, now): nothing of them begins from now on; requests are accepted and wait.
create function set_pause(p_pipeline text, p_tenant text, p_reason text, p_by text, p_now timestamptz) returns jsonb language plpgsql as $$
begin
    if p_tenant is not null and not lock_tenant(p_tenant) then return jsonb_build_object('result', 'refused', 'code', 'unknown_tenant'); end if;
    perform pg_advisory_xact_lock(hashtext('pauses'));
    insert into pauses (pipeline, tenant_id, reason, paused_by, since) values (p_pipeline, p_tenant, p_reason, p_by, p_now) on conflict do nothing;
    if not found then return jsonb_build_object('result', 'there'); end if;
    perform follow_pauses(p_pipeline, p_tenant);
    if p_tenant is not null then
        perform note(p_tenant, null, 'tenant_paused', jsonb_strip_nulls(jsonb_build_object('pipeline', p_pipeline, 'by', p_by, 'reason', p_reason)), p_now);
    end if;
    return jsonb_build_object('result', 'paused');
end $$;

-- end_pause(pipeline or null, tenant or null, reason, by, now): they go on, unless another pause covers them; due times that were held
-- meanwhile fire by their schedule's policy for missed ones.
create function end_pause(p_pipeline text, p_tenant text, p_reason text, p_by text, p_now timestamptz) returns jsonb language plpgsql as $$
begin
    if p_tenant is not null and not lock_tenant(p_tenant) then return jsonb_build_object('result', 'refused', 'code', 'unknown_tenant'); end if;
    perform pg_advisory_xact_lock(hashtext('pauses'));
    update pauses set ended_by = p_by, end_reason = p_reason, ended_at = p_now
    where ended_at is null and pipeline is not distinct from p_pipeline and tenant_id is not distinct from p_tenant;
    if not found then return jsonb_build_object('result', 'there'); end if;
    perform follow_pauses(p_pipeline, p_tenant);
    perform release_slots(p_pipeline, p_tenant, p_now);
    if p_tenant is not null then
        perform note(p_tenant, null, 'tenant_unpaused', jsonb_strip_nulls(jsonb_build_object('pipeline', p_pipeline, 'by', p_by, 'reason', p_reason)), p_now);
    end if;
    return jsonb_build_object('result', 'resumed');
end $$;

-- follow_pauses(pipeline, tenant): the heads that a pause covers learn what holds for them now; in the order in which batches lock tenants.
create function follow_pauses(p_pipeline text, p_tenant text) returns void language plpgsql as $$
begin
    perform 1 from pipeline_heads where tenant_id = coalesce(p_tenant, tenant_id) and pipeline = coalesce(p_pipeline, pipeline) order by tenant_id, pipeline for update;
    update pipeline_heads set paused = not paused
    where tenant_id = coalesce(p_tenant, tenant_id) and pipeline = coalesce(p_pipeline, pipeline) and paused <> is_paused(tenant_id, pipeline);
end $$;

-- hold_slots(slots as [{schedule_id, tenant_id, due}]): those still paused wait for the end of the pause, those of a backfill for its next look. Before any request of the transaction.
create function hold_slots(p_slots jsonb) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(hashtext('pauses'));
    update slots s set state = case when s.backfill_id is null then 'held' else 'planned' end, reason = 'paused' from jsonb_to_recordset(p_slots) as x(schedule_id uuid, tenant_id text, due timestamptz), schedules c
    where s.schedule_id = x.schedule_id and s.tenant_id = x.tenant_id and s.due = x.due and c.schedule_id = s.schedule_id and is_paused(s.tenant_id, c.pipeline);
end $$;

-- release_slots(pipeline, tenant, now): held slots that nothing pauses any more: to be fired, or missed, as their schedule says.
create function release_slots(p_pipeline text, p_tenant text, p_now timestamptz) returns void language sql as $$
    with held as (
        select s.schedule_id, s.tenant_id, s.due, c.missed,
               s.fire_at >= p_now - c.catch_up as fresh, s.fire_at >= p_now - interval '1 minute' as just_now,
               row_number() over (partition by s.schedule_id, s.tenant_id order by s.due desc) = 1 as newest
        from slots s join schedules c using (schedule_id)
        where s.state = 'held' and s.tenant_id = coalesce(p_tenant, s.tenant_id) and c.pipeline = coalesce(p_pipeline, c.pipeline)
          and not is_paused(s.tenant_id, c.pipeline)
    ), judged as (
        select *, fresh and case missed when 'all' then true when 'latest' then newest else just_now end as fires from held
    )
    update slots s set state = case when fires then 'due' else 'skipped' end, fired_at = case when not fires then p_now end,
        reason = case when not fires then 'missed during a pause (missed: ' || missed || ')' end
    from judged j where s.schedule_id = j.schedule_id and s.tenant_id = j.tenant_id and s.due = j.due
$$;

-- look_at_slots(now): notes in `looks` (here by the clock of due times) that somebody is there, before anything is made or fired. After more than
-- a minute in which nobody was, the slots that are late by more than that stay due or are missed, as their schedules say; how many were missed. They
-- count from their place in the jitter. A time still to be made into slots is newer than they are. Not missed: what a backfill asks for, and what
-- waited in a queue before.
create function look_at_slots(p_now timestamptz) returns bigint language plpgsql as $$
declare v_last timestamptz; v_missed bigint;
begin
    insert into looks (name, at) values ('timers', '-infinity') on conflict do nothing;
    select at into v_last from looks where name = 'timers' for update;   -- when all come back at once, the others wait here for the first
    update looks set at = p_now where name = 'timers';
    if v_last >= p_now - interval '1 minute' then return 0; end if;
    with late as (
        select s.schedule_id, s.tenant_id, s.due, c.missed, c.catch_up, s.fire_at >= p_now - c.catch_up as fresh,
               not (not c.paused and coalesce(c.next_due <= p_now, false)
                    or exists (select 1 from slots n where n.schedule_id = s.schedule_id and n.tenant_id = s.tenant_id and n.due > s.due
                               and n.backfill_id is null)) as newest
        from slots s join schedules c using (schedule_id)
        where s.state = 'due' and s.backfill_id is null and s.fire_at < p_now - interval '1 minute' and (s.fire_at > v_last or c.overlap <> 'queue')
    )
    update slots s set state = 'skipped', fired_at = p_now,
        reason = 'missed while no worker was there (' || case when fresh then 'missed: ' || missed else 'older than catch-up: ' || catch_up end || ')'
    from late l where s.schedule_id = l.schedule_id and s.tenant_id = l.tenant_id and s.due = l.due and s.state = 'due'
      and not (fresh and case missed when 'all' then true when 'latest' then newest else false end);
    get diagnostics v_missed = row_count;
    return v_missed;
end $$;

-- due_slots(now, most): slots to fire, locked for the caller's transaction, with what their requests say. Plans are pinned to index look-ups:
-- ten thousand slots may have come since anybody counted rows, and a plan for a handful would read all of them for each. `offset 0` keeps the head's two keys
-- together: a plan made when there was no head looked for them by the pipeline alone, in every slot.
create function due_slots(p_now timestamptz, p_most integer)
returns table (schedule_id uuid, tenant_id text, due timestamptz, name text, pipeline text, overlap text, request jsonb, busy boolean, paused boolean) language sql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_sort = off as $$
    select s.schedule_id, s.tenant_id, s.due, c.name, c.pipeline, case when s.backfill_id is null then c.overlap else 'queue' end, c.request,
        coalesce(h.active_run is not null, false), exists (select 1 from pauses where ended_at is null) and is_paused(s.tenant_id, c.pipeline)
    from slots s join schedules c using (schedule_id)
    left join lateral (select * from pipeline_heads where tenant_id = s.tenant_id and pipeline = c.pipeline offset 0) h on true
    where s.state = 'due' and s.fire_at <= p_now and not ((c.overlap = 'queue' or s.backfill_id is not null) and h.pending_run is not null)
    order by s.fire_at limit p_most for update of s skip locked
$$;

-- settle_slots(slots as [{schedule_id, tenant_id, due, state, reason, run_id}], now): what became of them, in the transaction that accepted their requests.
create function settle_slots(p_slots jsonb, p_now timestamptz) returns void language sql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off as $$
    update slots s set state = x.state, reason = x.reason, run_id = x.run_id, fired_at = p_now
    from jsonb_to_recordset(p_slots) as x(schedule_id uuid, tenant_id text, due timestamptz, state text, reason text, run_id uuid)
    where s.schedule_id = x.schedule_id and s.tenant_id = x.tenant_id and s.due = x.due
$$;

-- fire_slots(requests of due slots with their place n, the slots' schedules and due times in that order, now): the requests accepted and the slots settled,
-- in one transaction. Gives for each n as accept_usual does, or the whole answer of what was not usual; nothing for a slot that stays due.
create function fire_slots(p_items jsonb, p_schedules uuid[], p_dues timestamptz[], p_now timestamptz)
returns table (n integer, seq bigint, asked_outbox bigint, outbox_id bigint, answer jsonb) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off as $$
declare v_tenants text[]; v_runs uuid[]; v_states text[]; v_reasons text[];
begin
    select array_agg(e.tenant order by e.n), array_agg(e.run_id order by e.n) into v_tenants, v_runs from jsonb_to_recordset(p_items) e(n integer, tenant text, run_id uuid);
    perform 1 from tenant_heads h where h.tenant_id = any(v_tenants) order by h.tenant_id for update;
    for n, seq, asked_outbox, outbox_id in select u.n, u.seq, u.asked_outbox, u.outbox_id from accept_usual(p_items, p_now, false) u loop
        v_states[n] := 'fired'; v_reasons[n] := 'run';
        return next;
    end loop;
    seq := null; asked_outbox := null; outbox_id := null;
    for k in 1 .. cardinality(v_tenants) loop
        continue when v_states[k] is not null;
        -- it was judged before the tenant was locked: where another worker's slot came in between, it stays due, and the next transaction judges it
        continue when exists (select 1 from pipeline_heads h where h.tenant_id = v_tenants[k] and h.pipeline = p_items -> (k - 1) ->> 'pipeline'
            and case p_items -> (k - 1) ->> 'overlap' when 'skip' then h.active_run is not null when 'queue' then h.pending_run is not null end);
        n := k;
        answer := accept_request(p_items -> (k - 1), p_now);
        continue when answer ->> 'code' = 'reconciling';   -- the ledger was set back since the timers looked: nothing of it is settled before it is adopted
        v_states[k] := case when answer ->> 'result' = 'refused' then 'skipped' else 'fired' end;
        v_reasons[k] := case when answer ->> 'result' = 'refused' then 'refused: ' || (answer ->> 'code') else answer ->> 'result' end;
        v_runs[k] := (answer ->> 'run_id')::uuid;
        return next;
    end loop;
    update slots s set state = x.state, reason = x.reason, run_id = x.run_id, fired_at = p_now
    from unnest(p_schedules, v_tenants, p_dues, v_states, v_reasons, v_runs) x(schedule_id, tenant_id, due, state, reason, run_id)
    where s.schedule_id = x.schedule_id and s.tenant_id = x.tenant_id and s.due = x.due and x.state is not null;
end $$;
