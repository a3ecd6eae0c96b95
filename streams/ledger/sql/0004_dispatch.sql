-- Who works on what: claims, leases, echoes, and the operator's moves.

-- Turns (start-time fair queueing): a step that is queued gets the number after its tenant's last one, 1/weight further, but none before the
-- number that was dispatched last; lower numbers go first. So tenants that always have work share by weight, one that comes back after a
-- rest waits for one turn of each other at most, and idle time saves up nothing. All of it stands in the steps themselves.
create function class_of(p_own jsonb) returns smallint language sql immutable as $$
    select (case p_own ->> 'priority' when 'high' then 0 when 'low' then 2 else 1 end)::smallint
$$;
-- setting_of(tenant's own settings of the dispatcher, name, least, most): a number among them, held to its bounds; null: none is set. The door holds them
-- too, but a claim asks for all tenants: whatever a row says, it fails for none.
create function setting_of(p_own jsonb, p_name text, p_least numeric, p_most numeric) returns numeric language sql immutable as $$
    select case jsonb_typeof(p_own -> p_name) when 'number' then least(greatest((p_own -> p_name)::numeric, p_least), p_most) end
$$;
create function next_turn(p_now float8, p_last float8, p_own jsonb) returns float8 language sql immutable as $$
    select greatest(coalesce(p_now, 1), coalesce(p_last + 1 / coalesce(setting_of(p_own, 'weight', 0.01, 100)::float8, 1), 1))
$$;
create function take_turn() returns trigger language plpgsql
set enable_seqscan = off as $$   -- a plan made on few rows would be kept when there are thousands
declare v_own jsonb; v_class smallint; v_now float8; v_last float8;
begin
    if tg_op = 'INSERT' and new.turn > 0 then return new; end if;   -- accept_usual numbered it
    select settings -> 'dispatch' into v_own from tenants where tenant_id = new.tenant_id;
    v_class := class_of(v_own);
    if tg_op = 'UPDATE' and old.turn > 0 and old.class = v_class and new.attempt = old.attempt and new.round = old.round then
        return new;   -- given back by a dead or draining worker: it keeps its place
    end if;
    select turn into v_now from steps where class = v_class and turn > 0 and state <> 'ready' order by turn desc limit 1;
    if tg_op = 'UPDATE' and old.turn = 0 and old.worker is not null and new.attempt = old.attempt and new.round = old.round then
        new.class := v_class;
        new.turn := greatest(coalesce(v_now, 1) - 0.5, 0.5);   -- the same of a step that was handed over: before all that have not begun
        return new;
    end if;
    select turn into v_last from steps where tenant_id = new.tenant_id and class = v_class and turn > 0 order by turn desc limit 1;
    new.class := v_class;
    new.turn := next_turn(v_now, v_last, v_own);
    return new;
end $$;
create trigger steps_turn before insert or update of due_at, state on steps for each row
    when (new.worker is null and new.state = 'ready') execute function take_turn();

-- Few tenants have a quota; each claim asks for them.
create index tenants_with_quota on tenants (tenant_id) where settings -> 'dispatch' ?| '{concurrent,per_hour,burst}';

-- begun(tenant, since): when those of a tenant's runs began that began since then: each is still the active one of its pipeline, or has ended since.
-- So neither the runs that wait are read, however many, nor those that were over before; one that was cancelled before it began has no such step.
create index runs_ended on runs (tenant_id, finished_at) where finished_at is not null;
create function begun(p_tenant text, p_since timestamptz) returns setof timestamptz language sql stable as $$
    select s.started_at from (
        select active_run as run_id from pipeline_heads where tenant_id = p_tenant
        union all select run_id from runs where tenant_id = p_tenant and finished_at > p_since
    ) found join runs r using (run_id) join steps s on s.run_id = r.run_id and s.input_id = r.request_id
    where s.started_at > p_since
$$;

-- quota_left(tenant, now): how many more steps, and how many more runs, of a tenant with a quota may begin; null: any. Counted in rows, under a lock.
create function quota_left(p_tenant text, p_now timestamptz, out steps integer, out runs integer) language plpgsql as $$
declare v_own jsonb; v_hour integer; v_burst integer;
begin
    perform pg_advisory_xact_lock(hashtext('quota ' || p_tenant));
    select settings -> 'dispatch' into v_own from tenants where tenant_id = p_tenant;
    steps := setting_of(v_own, 'concurrent', 1, 1e6)::int - (select count(*) from pipeline_heads h join steps s on s.run_id = h.active_run
        where h.tenant_id = p_tenant and (s.worker is not null or s.state = 'waiting'));
    v_hour := setting_of(v_own, 'per_hour', 1, 1e6)::int; v_burst := setting_of(v_own, 'burst', 1, 1e6)::int;
    if v_hour is null and v_burst is null then return; end if;
    -- least() passes over what is null
    select least(v_hour - count(*), v_burst - count(*) filter (where at > p_now - interval '1 minute')) into runs
    from begun(p_tenant, p_now - case when v_hour is null then interval '1 minute' else interval '1 hour' end) at;
end $$;

-- spent(left, tenant, first): what is left, {tenant: {steps, runs}}, when the tenant gets one more step, which begins a run or does not.
create function spent(p_left jsonb, p_tenant text, p_first boolean) returns jsonb language sql immutable as $$
    select jsonb_set(p_left, array[p_tenant], jsonb_build_object('steps', (p_left -> p_tenant ->> 'steps')::int - 1,
                                                                 'runs', (p_left -> p_tenant ->> 'runs')::int - p_first::int))
$$;
-- without(left, steps or runs): the tenants that have none left.
create function without(p_left jsonb, p_of text) returns text[] language sql immutable as $$
    select coalesce(array_agg(key), '{}') from jsonb_each(p_left) where (value ->> p_of)::int <= 0
$$;

-- begins(step): whether it would begin its run.
create function begins(s steps) returns boolean language sql stable as $$
    select s.started_at is null and s.input_id = (select r.request_id from runs r where r.run_id = s.run_id)
$$;

-- going(tenants): their runs that have begun and are at a later step: found by the active ones, which are few, not among all that is queued.
create function going(p_tenants text[]) returns uuid[] language sql stable as $$
    select coalesce(array_agg(s.run_id), '{}') from pipeline_heads h join steps s on s.run_id = h.active_run
    where h.tenant_id = any (p_tenants) and s.worker is null and s.state = 'ready' and not begins(s)
$$;

-- may_begin(step): whether no pause keeps a ready step; the end of a run that was cancelled is no beginning.
create function may_begin(s steps) returns boolean language sql stable as $$
    select not exists (select 1 from pipeline_heads h where h.tenant_id = s.tenant_id and h.pipeline = s.pipeline and h.paused)
        or exists (select 1 from runs r where r.run_id = s.run_id and r.state = 'cancelling')
$$;

-- claim_steps(worker, room, stages to leave out, only these stages or null, limits {name: most}, now, more, busy): lease due steps to the worker:
-- looks at jobs by the time, ready steps in the order of their turns. Of these at most `more` (null: any number) of tenants and pipelines with a step in
-- hand, which at first are `busy` ("tenant pipeline"): the rest of the room is for whoever comes. Looked for among the next in each class, not behind a long queue.
-- Plans are pinned to index look-ups: with thousands waiting, a look at the few that are due would scan them all.
create function claim_steps(p_worker uuid, p_room integer, p_without text[], p_only text[], p_limits jsonb, p_now timestamptz,
                            p_more integer default null, p_busy text[] default '{}')
returns setof jsonb language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off as $$
declare v_name text; v_of text; v_most integer; v_n integer; v_step steps; v_left record; v_full text[] := '{}'; v_again boolean; v_first boolean;
        v_quota jsonb; v_spent text[]; v_going uuid[];   -- of tenants that are spent, runs that have begun go on; of those that are full, nothing
        v_runs uuid[]; v_stages text[]; v_tenant text;
        v_room integer := p_room;   -- places of limits are few: they come on top
        v_more integer := coalesce(p_more, p_room); v_busy text[] := p_busy;
        v_ending uuid[];   -- runs that are being cancelled: what they still have to do waits for no place
begin
    if coalesce(least((select min(due_at) from steps where worker is null and state = 'ready'),
                      (select min(due_at) from steps where worker is null and state = 'waiting')), 'infinity') > p_now then return; end if;

    return query
    with due as (
        select s.run_id, s.stage from steps s
        where s.worker is null and s.state = 'waiting' and s.due_at <= p_now and s.stage <> all (p_without) and (p_only is null or s.stage = any (p_only))
        order by s.due_at limit p_room for update of s skip locked
    ), taken as (
        update steps s set worker = p_worker, fence = fence + 1, waiting_for = null from due where s.run_id = due.run_id and s.stage = due.stage returning s as step
    )
    select leased(step, r) from taken join runs r on r.run_id = (step).run_id;
    get diagnostics v_n = row_count;
    v_room := v_room - v_n;

    v_quota := '{}';   -- tenant -> {steps, runs} that may still begin
    for v_tenant in select tenant_id from tenants t where settings -> 'dispatch' ?| '{concurrent,per_hour,burst}'
                    and exists (select 1 from steps s where s.tenant_id = t.tenant_id and s.worker is null and s.state = 'ready' and s.turn > 0) order by tenant_id loop
        select * into v_left from quota_left(v_tenant, p_now);
        v_quota := v_quota || jsonb_build_object(v_tenant, jsonb_build_object('steps', v_left.steps, 'runs', v_left.runs));
    end loop;
    v_full := without(v_quota, 'steps'); v_spent := without(v_quota, 'runs'); v_going := going(v_spent);

    v_ending := array(select run_id from runs where state = 'cancelling');
    v_runs := '{}'; v_stages := '{}'; v_again := true;
    while v_again and v_room > 0 loop
        v_again := false;
        for v_step in
            select n.* from unnest('{0,1,2}'::smallint[]) c(class) cross join lateral (
                select * from steps s
                where s.worker is null and s.state = 'ready' and s.class = c.class and s.due_at <= p_now
                  and s.stage <> all (p_without) and (p_only is null or s.stage = any (p_only))
                  and (s.limit_name is null or not p_limits ? s.limit_name or s.run_id = any (v_ending)
                       or exists (select 1 from limit_slots l where l.run_id = s.run_id and l.stage = s.stage))
                  and s.tenant_id <> all (v_full) and (s.tenant_id <> all (v_spent) or s.run_id = any (v_going))
                  and may_begin(s) and s.run_id <> all (v_runs)
                order by s.turn limit 2 * v_room) n
            order by n.class, n.turn
        loop
            exit when v_room <= 0;
            v_of := v_step.tenant_id || ' ' || v_step.pipeline;
            continue when v_more <= 0 and v_of = any (v_busy);
            select * into v_step from steps s where s.run_id = v_step.run_id and s.stage = v_step.stage for update skip locked;
            continue when not found or v_step.worker is not null or v_step.state <> 'ready' or v_step.due_at > p_now;   -- as it is now: somebody may have had it meanwhile
            if v_quota ? v_step.tenant_id then
                v_first := begins(v_step);
                if v_step.tenant_id = any (v_full) or v_first and v_step.tenant_id = any (v_spent) then
                    v_again := true;
                    continue;
                end if;
                v_quota := spent(v_quota, v_step.tenant_id, v_first); v_full := without(v_quota, 'steps');
                v_spent := without(v_quota, 'runs'); v_going := going(v_spent);
            end if;
            if v_of = any (v_busy) then v_more := v_more - 1; else v_busy := v_busy || v_of; end if;
            v_runs := v_runs || v_step.run_id; v_stages := v_stages || v_step.stage; v_room := v_room - 1;
        end loop;
    end loop;
    return query
    with taken as (
        update steps s set worker = p_worker, fence = fence + 1, state = 'running', started_at = coalesce(s.started_at, p_now), waiting_for = null
        from unnest(v_runs, v_stages) as due(run_id, stage) where s.run_id = due.run_id and s.stage = due.stage returning s as step
    )
    select leased(step, r) from taken join runs r on r.run_id = (step).run_id join unnest(v_runs) with ordinality o(run_id, n) on o.run_id = r.run_id order by o.n;

    for v_name, v_most in select key, value::int from jsonb_each_text(p_limits) loop
        perform pg_advisory_xact_lock(hashtext('limit ' || v_name));
        for v_n in select n from generate_series(1, v_most) n
                   where not exists (select 1 from limit_slots l where l.name = v_name and l.n = n.n) order by n limit p_room loop
            select s.* into v_step from steps s
            where s.worker is null and s.state = 'ready' and s.due_at <= p_now and s.limit_name = v_name and s.stage <> all (p_without)
              and (p_only is null or s.stage = any (p_only)) and s.tenant_id <> all (v_full)
              and (s.tenant_id <> all (v_spent) or s.run_id = any (v_going)) and may_begin(s)
            order by s.class, s.turn limit 1 for update skip locked;
            exit when not found;
            if v_quota ? v_step.tenant_id then
                v_quota := spent(v_quota, v_step.tenant_id, begins(v_step)); v_full := without(v_quota, 'steps');
                v_spent := without(v_quota, 'runs'); v_going := going(v_spent);
            end if;
            insert into limit_slots (name, n, run_id, stage) values (v_name, v_n, v_step.run_id, v_step.stage) on conflict (run_id, stage) do nothing;
            update steps set worker = p_worker, fence = fence + 1, state = 'running', started_at = coalesce(started_at, p_now), waiting_for = null
            where run_id = v_step.run_id and stage = v_step.stage returning * into v_step;
            return query select leased(v_step, r) from runs r where r.run_id = v_step.run_id;
        end loop;
    end loop;
end $$;

-- claim_echo(worker, run, stage, event, now): with eager hand-over off, the event's return from Kafka starts the step that it feeds.
create function claim_echo(p_worker uuid, p_run uuid, p_stage text, p_event uuid, p_limited boolean, p_now timestamptz) returns setof jsonb language plpgsql as $$
declare v_step steps;
begin
    update steps s set due_at = p_now, worker = case when p_limited then null else p_worker end, fence = fence + 1,
        state = case when p_limited then 'ready' else 'running' end, started_at = case when p_limited then null else p_now end
    where s.run_id = p_run and s.stage = p_stage and s.input_id = p_event and s.state = 'ready' and s.worker is null and s.started_at is null
      and not exists (select 1 from pipeline_heads h where h.tenant_id = s.tenant_id and h.pipeline = s.pipeline and h.paused)
    returning * into v_step;
    if v_step.worker is not null then
        return query select leased(v_step, r) from runs r where r.run_id = p_run;
    end if;
end $$;

-- join_slot(worker, slot, host, pid, lease): a worker takes over a slot; whatever its predecessor leased is void at once.
create function join_slot(p_worker uuid, p_slot integer, p_host text, p_pid integer, p_lease float8) returns void language sql as $$
    update workers set lease_until = '-infinity', stopped_at = coalesce(stopped_at, clock_timestamp()) where slot = p_slot and worker_id <> p_worker and lease_until > '-infinity';
    insert into workers (worker_id, slot, host, pid, lease_until) values (p_worker, p_slot, p_host, p_pid, clock_timestamp() + make_interval(secs => p_lease))
    on conflict (worker_id) do update set lease_until = excluded.lease_until, stopped_at = null;
$$;

-- reap(): give steps of dead workers back; a crash costs no attempt. Leases use the real clock and are never faked.
create function reap(p_now timestamptz) returns bigint language plpgsql set enable_seqscan = off as $$   -- few are leased, of many
declare v_count bigint;
begin
    with dead as (
        select s.run_id, s.stage from steps s left join workers w on w.worker_id = s.worker
        where s.worker is not null and (w.lease_until is null or w.lease_until < clock_timestamp()) for update of s skip locked
    ), freed as (
        update steps s set worker = null, due_at = p_now, takeovers = takeovers + 1, state = case when s.state = 'running' then 'ready' else s.state end
        from dead where s.run_id = dead.run_id and s.stage = dead.stage returning s.run_id, s.stage, s.state
    ), slots as (
        delete from limit_slots l using freed f where l.run_id = f.run_id and l.stage = f.stage and f.state = 'ready'
    )
    select count(*) into v_count from freed;
    return v_count;
end $$;

-- cancel_run(run, finish event, first, unsettled stages, by, now): asks a run to end. Exactly one of cancel and completion wins: the tenant is locked.
create function cancel_run(p_run uuid, p_finish uuid, p_first jsonb, p_unsettled text[], p_by text, p_now timestamptz) returns jsonb language plpgsql as $$
declare v_run runs; v_step steps; v_seq bigint;
begin
    select * into v_run from runs where run_id = p_run;
    if not found then return jsonb_build_object('result', 'refused', 'code', 'unknown_run'); end if;
    perform lock_tenant(v_run.tenant_id);
    select * into v_run from runs where run_id = p_run;
    if v_run.state not in ('pending', 'running', 'cancelling') then
        return jsonb_build_object('result', 'refused', 'code', 'run_over', 'state', v_run.state);
    end if;
    if v_run.state = 'cancelling' then return jsonb_build_object('result', 'cancelling'); end if;
    if v_run.state = 'pending' then
        update pipeline_heads set pending_run = null where tenant_id = v_run.tenant_id and pipeline = v_run.pipeline and pending_run = p_run;
        return jsonb_build_object('result', 'cancelled', 'outbox', finish_run(p_run, 'cancelled', 'cancelled', 'cancelled by ' || p_by, p_finish, p_first, p_now));
    end if;
    select * into v_step from steps where run_id = p_run and stage = v_run.stage for update;
    if v_step.state = 'ready' and v_step.worker is null and not (v_step.started_at is not null and v_step.stage = any (p_unsettled)) then
        update steps set state = 'cancelled', code = 'cancelled', finished_at = p_now where run_id = p_run and stage = v_run.stage;
        perform note(v_run.tenant_id, p_run, 'step', jsonb_strip_nulls(jsonb_build_object('stage', v_run.stage, 'state', 'cancelled', 'round', v_step.round,
                     'attempt', v_step.attempt, 'started_at', v_step.started_at, 'code', 'cancelled', 'error', v_step.error)), p_now);
        return jsonb_build_object('result', 'cancelled', 'outbox', finish_run(p_run, 'cancelled', 'cancelled', 'cancelled by ' || p_by, p_finish, p_first, p_now));
    end if;
    v_seq := note(v_run.tenant_id, p_run, 'cancel', jsonb_build_object('by', p_by), p_now);
    update runs set state = 'cancelling', version = v_seq where run_id = p_run returning * into v_run;
    -- the next look at the job tells the engine; what a try may have left behind is settled now
    update steps set due_at = p_now where run_id = p_run and worker is null and state in ('waiting', 'ready');
    return jsonb_build_object('result', 'cancelling', 'outbox', jsonb_build_array(
        emit(gen_random_uuid(), null, v_run.tenant_id, p_run, null, v_seq, p_now, v_run.traceparent, null, true)));
end $$;

-- reopen_run(run, stage or null, limit, by, now): `tidemill retry`: a finished run goes on from a stage with the next round; earlier effects are kept.
create function reopen_run(p_run uuid, p_stage text, p_stages text[], p_limit text, p_by text, p_now timestamptz) returns jsonb language plpgsql as $$
declare v_run runs; v_step steps; v_head pipeline_heads; v_seq bigint; v_stage text; v_newer uuid;
begin
    select * into v_run from runs where run_id = p_run;
    if not found then return jsonb_build_object('result', 'refused', 'code', 'unknown_run'); end if;
    perform lock_tenant(v_run.tenant_id);
    select * into v_run from runs where run_id = p_run;
    if v_run.state in ('pending', 'running', 'cancelling') then return jsonb_build_object('result', 'refused', 'code', 'run_not_over', 'state', v_run.state); end if;
    if v_run.state = 'superseded' then return jsonb_build_object('result', 'refused', 'code', 'run_superseded'); end if;
    if (select status from tenants where tenant_id = v_run.tenant_id) <> 'active' then
        return (select jsonb_build_object('result', 'refused', 'code', 'tenant_' || status, 'tenant', tenant_id) from tenants where tenant_id = v_run.tenant_id);
    end if;
    select * into v_head from pipeline_heads where tenant_id = v_run.tenant_id and pipeline = v_run.pipeline;
    if v_head.active_run is not null then return jsonb_build_object('result', 'refused', 'code', 'tenant_busy', 'active_run', v_head.active_run); end if;
    v_stage := coalesce(p_stage, (select stage from steps where run_id = p_run and state in ('failed', 'cancelled', 'skipped')
                                  order by finished_at desc limit 1), v_run.stage, p_stages[1]);
    if v_stage <> p_stages[1] then   -- what its early stages made is older than what a later run brought
        select run_id into v_newer from runs n where n.tenant_id = v_run.tenant_id and n.pipeline = v_run.pipeline and n.requested_at > v_run.requested_at
            and n.state in ('succeeded', 'succeeded_with_warnings') order by n.requested_at desc limit 1;
        if found then return jsonb_build_object('result', 'refused', 'code', 'run_outdated', 'newer', v_newer); end if;
    end if;
    select * into v_step from steps where run_id = p_run and stage = v_stage;
    if not found then return jsonb_build_object('result', 'refused', 'code', 'stage_not_reached', 'stage', v_stage); end if;
    update pipeline_heads set active_run = p_run where tenant_id = v_run.tenant_id and pipeline = v_run.pipeline;
    v_seq := note(v_run.tenant_id, p_run, 'reopened', jsonb_build_object('stage', v_stage, 'round', v_step.round + 1, 'by', p_by, 'limit', p_limit,
        'void', coalesce((select jsonb_agg(stage order by stage) from steps
                          where run_id = p_run and array_position(p_stages, stage) > array_position(p_stages, v_stage)), '[]')), p_now);
    update runs set state = 'running', stage = v_stage, code = null, reason = null, finished_at = null, warnings = 0, version = v_seq where run_id = p_run returning * into v_run;
    update steps set state = 'cancelled', code = 'reopened' where run_id = p_run and array_position(p_stages, stage) > array_position(p_stages, v_stage);
    perform set_step_ready(v_run, jsonb_build_object('stage', v_stage, 'limit', p_limit), v_step.input, v_step.input_type, v_step.input_id, p_now, null);
    return jsonb_build_object('result', 'reopened', 'stage', v_stage, 'round', v_step.round + 1, 'outbox', jsonb_build_array(
        emit(gen_random_uuid(), null, v_run.tenant_id, p_run, null, v_seq, p_now, v_run.traceparent, null, true)));
end $$;

-- note_gap(topic, partition, first, past): these offsets are to be read again. A gap that begins there grows, and stays with whoever has it in hand
-- (close_gap closes no more than was read); one that was closed is opened anew.
create function note_gap(p_topic text, p_partition integer, p_first bigint, p_past bigint) returns void language sql as $$
    insert into gaps (topic, partition, first, past) values (p_topic, p_partition, p_first, p_past)
    on conflict (topic, partition, first) do update set state = 'open', closed_at = null,
        past = case when gaps.state = 'open' then greatest(gaps.past, excluded.past) else excluded.past end,
        seen_at = case when gaps.state = 'open' then gaps.seen_at else excluded.seen_at end,
        lease_until = case when gaps.state = 'open' then gaps.lease_until end
$$;

-- advance(topic, partition, first, next): the watermark moves past offsets [first, next); a hole before them is noted, never assumed harmless.
create function advance(p_topic text, p_partition integer, p_first bigint, p_next bigint) returns void language plpgsql as $$
declare v_next bigint;
begin
    insert into offsets (topic, partition, next) values (p_topic, p_partition, 0) on conflict do nothing;
    select next into v_next from offsets where topic = p_topic and partition = p_partition for update;
    if p_next <= v_next then   -- late, not lost: what was noted meanwhile is no gap (any more)
        delete from gaps where topic = p_topic and partition = p_partition and state = 'open' and lease_until is null and first >= p_first and past <= p_next;
        update gaps set first = p_next where topic = p_topic and partition = p_partition and state = 'open' and lease_until is null and first >= p_first and first < p_next;
    elsif p_first > v_next then
        perform note_gap(p_topic, p_partition, v_next, p_first);
    end if;
    update offsets set next = greatest(next, p_next) where topic = p_topic and partition = p_partition and next < p_next;
end $$;

-- close_gap(topic, partition, first, past, how): offsets [first, past) were read again; what the gap has grown by meanwhile is a gap of its own.
create function close_gap(p_topic text, p_partition integer, p_first bigint, p_past bigint, p_how text) returns void language plpgsql as $$
declare v_gap gaps;
begin
    perform advance(p_topic, p_partition, p_first, p_past);   -- and locks the watermark first, as everyone does
    select * into v_gap from gaps where topic = p_topic and partition = p_partition and first = p_first for update;
    if v_gap.state = 'open' and v_gap.past > p_past then perform note_gap(p_topic, p_partition, p_past, v_gap.past); end if;
    update gaps set state = p_how, past = p_past, closed_at = clock_timestamp() where topic = p_topic and partition = p_partition and first = p_first;
end $$;

-- bury(item, now): a record that cannot be used becomes a dead letter; the row is the truth, the topic dead.letters its echo.
create function bury(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
begin
    insert into dead_letters (id, topic, partition, "offset", tenant_id, key, value, size, sha256, headers, cluster, timestamp_ms, code, sentence, at)
    values ((i ->> 'id')::uuid, i ->> 'topic', (i ->> 'partition')::int, (i ->> 'offset')::bigint, i ->> 'tenant', decode(i ->> 'key', 'hex'),
            decode(i ->> 'value', 'hex'), (i ->> 'size')::bigint, decode(i ->> 'sha256', 'hex'), i -> 'headers', i ->> 'cluster', (i ->> 'timestamp_ms')::bigint,
            i ->> 'code', i ->> 'sentence', p_now)
    on conflict do nothing;
    if not found then return jsonb_build_object('result', 'seen'); end if;
    return jsonb_build_object('result', 'buried', 'outbox', jsonb_build_array(
        emit((i ->> 'id')::uuid, 'dead.letters', coalesce(i ->> 'tenant', '_unknown'), null, null, 0, p_now, null, '', null)));
end $$;

-- begin_expansion(item, now): a request for all active tenants, or those chosen, is recorded; workers expand it chunk by chunk.
-- item: event_key, event_id, pipeline, data, source, topic, partition, offset, body, chosen, publish
create function begin_expansion(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare v_key uuid := (i ->> 'event_key')::uuid; v_body bytea := decode(i ->> 'body', 'hex');
begin
    if (i ->> 'publish')::boolean and exists (select 1 from reconciling) then return jsonb_build_object('result', 'refused', 'code', 'reconciling'); end if;
    insert into inbox (event_key, topic, partition, "offset", event_id, body, fate, at)
    values (v_key, i ->> 'topic', (i ->> 'partition')::int, (i ->> 'offset')::bigint, (i ->> 'event_id')::uuid, v_body, 'expanded', p_now)
    on conflict do nothing;
    if not found then
        if (select body from inbox where event_key = v_key) <> v_body then return jsonb_build_object('result', 'refused', 'code', 'key_reused'); end if;
        return jsonb_build_object('result', 'seen');
    end if;
    insert into expansions (event_key, event_id, pipeline, data, source, chosen, publish, at)
    values (v_key, (i ->> 'event_id')::uuid, i ->> 'pipeline', i -> 'data', i ->> 'source', coalesce(i -> 'chosen', '{}'),
            coalesce((i ->> 'publish')::boolean, false), p_now);
    return jsonb_build_object('result', 'expanding');
end $$;

-- chosen_tenants(chosen {labels, owner, status}, after, limit): the tenants that a request for many means, by their ids.
create function chosen_tenants(p_chosen jsonb, p_after text, p_most integer) returns setof text language sql stable as $$
    select tenant_id from tenants t
    where tenant_id > p_after and status = coalesce(p_chosen ->> 'status', 'active') and (not p_chosen ? 'owner' or owner = p_chosen ->> 'owner')
      and labels @> coalesce(p_chosen -> 'labels', '{}')
    order by tenant_id limit p_most
$$;

-- advance_expansion(key, after, last tenant, done, requests, now): one chunk: its requests and the place reached, together or not at all;
-- nothing when another worker was there before, or when the ledger was set back: then the chunk is for later.
create function advance_expansion(p_key uuid, p_after text, p_last text, p_done boolean, p_items jsonb, p_now timestamptz) returns setof jsonb language plpgsql as $$
declare v_answers jsonb[];
begin
    if exists (select 1 from reconciling) then return; end if;
    update expansions set after = p_last, tenants = tenants + jsonb_array_length(p_items), done_at = case when p_done then p_now end
    where event_key = p_key and after = p_after and done_at is null;
    if not found then return; end if;
    select array_agg(a) into v_answers from receive(p_items, '[]', p_now) a;
    if exists (select 1 from unnest(v_answers) a where a ->> 'code' = 'reconciling') then   -- it was set back since the first look
        raise exception using errcode = 'TM001', message = 'the ledger was set back';
    end if;
    return query select unnest(v_answers);
exception when sqlstate 'TM001' then return;
end $$;

-- commit_steps(items, now): one batch of outcomes.
create function commit_steps(p_items jsonb, p_now timestamptz) returns setof jsonb language plpgsql as $$
declare i jsonb;
begin
    for i in select value from jsonb_array_elements(p_items) loop
        return next commit_step(i, p_now);
    end loop;
end $$;

-- reserve_version(tenant, run, round, model, index): the tenant's next version number; the same one however often a run's round asks.
create function reserve_version(p_tenant text, p_run uuid, p_round integer, p_model text, p_index text) returns versions language plpgsql as $$
declare v versions;
begin
    perform lock_tenant(p_tenant);
    select * into v from versions where run_id = p_run and round = p_round;
    if found then return v; end if;
    insert into versions (tenant_id, number, run_id, round, model_path, index_path)
    values (p_tenant, (select coalesce(max(number), 0) + 1 from versions where tenant_id = p_tenant), p_run, p_round, p_model, p_index) returning * into v;
    return v;
end $$;

-- mark_version_live(tenant, number): it is healthy and serves; the one before it is retired.
create function mark_version_live(p_tenant text, p_number integer) returns void language plpgsql as $$
begin
    perform lock_tenant(p_tenant);
    update versions set state = 'retired', retired_at = clock_timestamp() where tenant_id = p_tenant and state = 'live' and number <> p_number;
    update versions set state = 'live', live_at = coalesce(live_at, clock_timestamp()), retired_at = null, reason = null where tenant_id = p_tenant and number = p_number and state <> 'live';
end $$;

-- restore_version(tenant, bad): the last good version again, under a number of its own; the same one however often it is asked for `bad`.
create function restore_version(p_tenant text, p_bad integer) returns setof versions language plpgsql as $$
declare v versions; v_good versions;
begin
    perform lock_tenant(p_tenant);
    select * into v from versions where tenant_id = p_tenant and instead_of = p_bad;
    if found then return next v; return; end if;
    select * into v_good from versions where tenant_id = p_tenant and number < p_bad and state in ('live', 'retired') order by live_at desc, number desc limit 1;
    if not found then return; end if;
    insert into versions (tenant_id, number, model_path, index_path, instead_of)
    values (p_tenant, (select max(number) + 1 from versions where tenant_id = p_tenant), v_good.model_path, v_good.index_path, p_bad) returning * into v;
    return next v;
end $$;
