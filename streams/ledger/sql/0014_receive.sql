-- The way in: one batch of what came from Kafka, the API, the CLI and timers. What most requests are (a known, active tenant, nothing of its pipeline
-- open, no quota) is accepted in one statement; the rest goes to accept_request, to the same rows and journal entries.

-- hold(most): why nothing new may be asked for now, as code and sentence; as a rule no row. Ids of the outbox are given in order: as long as its first and its
-- last are no further apart than `most`, it cannot hold more, and nothing is counted.
create function hold(p_most bigint) returns table (code text, sentence text) language plpgsql stable as $$
begin
    return query select 'reconciling', r.reason from reconciling r;
    if not found and (select max(id) - min(id) from outbox) >= p_most and exists (select from outbox offset p_most limit 1) then
        return query select 'outbox_full', format('more than %s events wait to be published; look at Kafka, then ask again', p_most);
    end if;
end $$;

-- accept_usual(requests with their place n, now, tell): as accept_request, for the first of each tenant. Gives for each that was carried out its n, the
-- tenant's journal number and the outbox ids of the request and of run.accepted; `tell`: and the whole answer, for whoever does not have it at hand.
-- Plans are pinned to index look-ups, as in hand_over; all there is to know of a request stands in `u`, and what follows only writes it down.
create function accept_usual(p_items jsonb, p_now timestamptz, p_tell boolean)
returns table (n integer, seq bigint, asked_outbox bigint, outbox_id bigint, answer jsonb) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set plan_cache_mode = force_generic_plan as $$
begin
    perform pg_advisory_xact_lock_shared(hashtext('pauses'));   -- as a new head would, once for all of them
    return query
    with x as materialized (
        select distinct on (r.tenant) r.n, r.event_key, r.event_id, decode(r.body, 'hex') as body, r.tenant, r.topic, r.partition, r."offset", r.pipeline, r.version,
            r.run_id, r.first, r.data, r.accepted_id, r.worker, r.traceparent, coalesce(r.publish, false) as publish
        from jsonb_to_recordset(p_items) r(n integer, event_key uuid, event_id uuid, body text, tenant text, topic text, partition integer, "offset" bigint,
            pipeline text, version text, run_id uuid, first jsonb, data jsonb, accepted_id uuid, worker uuid, traceparent text, publish boolean, abandoned boolean)
        where r.abandoned is not true order by r.tenant, r.n
    ), pausing as materialized (
        select exists (select 1 from pauses where ended_at is null) as any
    ), dispatched as materialized (   -- the last turn of each class, as take_turn asks for it
        select c.class, (select s.turn from steps s where s.class = c.class and s.turn > 0 and s.state <> 'ready' order by s.turn desc limit 1) as turn
        from unnest('{0,1,2}'::smallint[]) c(class)
    ), known as materialized (   -- looked up by primary keys before anything is asked of it
        select x.*, t.status, t.settings -> 'dispatch' as own, h.active_run, h.pending_run, i.event_key as seen,
            coalesce(h.paused, (select p.any from pausing p) and is_paused(x.tenant, x.pipeline)) as paused
        from x join tenants t on t.tenant_id = x.tenant
            left join pipeline_heads h on h.tenant_id = x.tenant and h.pipeline = x.pipeline
            left join inbox i on i.event_key = x.event_key
    ), u as (
        update tenant_heads h set seq = h.seq + 1 + k.publish::int from known k
        where h.tenant_id = k.tenant and k.status = 'active' and k.active_run is null and k.pending_run is null and k.seen is null
            and not (k.publish and exists (select 1 from reconciling))
        returning k.*, h.seq, case when k.publish then nextval('outbox_id_seq') end as asked_outbox, nextval('outbox_id_seq') as outbox_id,
            case when k.first ->> 'limit' is null and not k.paused and (k.own ?| '{concurrent,per_hour,burst}') is not true then k.worker end as lease,
            jsonb_build_object('tenant_id', k.tenant, 'run_id', k.run_id, 'pipeline', k.pipeline, 'pipeline_version', k.version,
                               'causes', jsonb_build_array(k.event_id), 'round', 1) as value
    ), heads as (
        insert into pipeline_heads (tenant_id, pipeline, active_run, paused) select u.tenant, u.pipeline, u.run_id, u.paused from u
        on conflict (tenant_id, pipeline) do update set active_run = excluded.active_run
    ), received as (
        insert into inbox (event_key, tenant_id, topic, partition, "offset", event_id, body, run_id, fate, at)
        select u.event_key, u.tenant, u.topic, u.partition, u."offset", u.event_id, u.body, u.run_id, 'run', p_now from u
    ), caused as (
        insert into causes (run_id, event_id, at, data) select u.run_id, u.event_id, p_now, u.data from u
    ), noted as (
        insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
        select u.tenant, u.seq - 1, p_now, u.run_id, 'requested', u.event_id, u.topic, null, u.data from u where u.publish
        union all
        select u.tenant, u.seq, p_now, u.run_id, 'accepted', u.accepted_id, 'run.accepted', u.event_id,
            u.value || jsonb_build_object('request', u.data, 'cause', u.event_id, 'first', u.first - 'hold', 'pending', false, 'traceparent', u.traceparent)
        from u
    ), begun as (
        insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, stage, request, request_id, causes, version, requested_at, started_at, traceparent)
        select u.run_id, u.tenant, u.pipeline, u.version, 'running', u.first ->> 'stage', u.data, u.event_id, 1, u.seq, p_now, p_now, u.traceparent from u
    ), ready as (
        insert into steps (run_id, stage, tenant_id, pipeline, state, round, due_at, worker, fence, limit_name, class, turn, input, input_type, input_id, ready_at, started_at)
        select u.run_id, u.first ->> 'stage', u.tenant, u.pipeline, case when u.lease is null then 'ready' else 'running' end, 1,
            p_now + make_interval(secs => coalesce((u.first ->> 'hold')::float8, 0)), u.lease, 1, u.first ->> 'limit', class_of(u.own),
            case when u.lease is null then next_turn(d.turn, (select s.turn from steps s where s.tenant_id = u.tenant and s.class = d.class and s.turn > 0
                order by s.turn desc limit 1), u.own) else 0 end,
            u.data, u.first ->> 'type', u.event_id, p_now, case when u.lease is not null then p_now end
        from u join dispatched d on d.class = class_of(u.own)
    ), told as (
        insert into outbox (id, event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state) overriding system value
        select u.asked_outbox, u.event_id, u.topic, u.tenant, u.run_id, null, u.seq - 1, p_now, u.traceparent, u.data::text, false from u where u.publish
        union all
        select u.outbox_id, u.accepted_id, 'run.accepted', u.tenant, u.run_id, u.event_id, u.seq, p_now, u.traceparent, u.value::text, true from u
    )
    select u.n, u.seq, u.asked_outbox, u.outbox_id, case when p_tell then jsonb_build_object('result', 'run', 'run_id', u.run_id,
        'outbox', case when u.publish then jsonb_build_array(told_row(u.asked_outbox, u.event_id, u.topic, u.tenant, u.run_id, null, u.seq - 1, p_now, u.traceparent,
            u.data::text, false)) else '[]' end || told_row(u.outbox_id, u.accepted_id, 'run.accepted', u.tenant, u.run_id, u.event_id, u.seq, p_now, u.traceparent,
            u.value::text, true),
        'step', case when u.lease is not null then jsonb_build_object('run_id', u.run_id, 'stage', u.first ->> 'stage', 'tenant_id', u.tenant, 'pipeline', u.pipeline,
            'state', 'running', 'round', 1, 'attempt', 1, 'takeovers', 0, 'fence', 1, 'input', u.data, 'input_type', u.first ->> 'type', 'input_id', u.event_id,
            'job', null, 'output', null, 'deadline', null, 'started_at', p_now, 'run_state', 'running', 'traceparent', u.traceparent) end) end
    from u;
end $$;

-- told_row(...): a row of the outbox as the publisher wants it.
create function told_row(p_id bigint, p_event uuid, p_topic text, p_tenant text, p_run uuid, p_causation uuid, p_seq bigint, p_now timestamptz, p_trace text,
                         p_value text, p_state boolean) returns jsonb language sql immutable as $$
    select jsonb_build_object('id', p_id, 'event_id', p_event, 'topic', p_topic, 'tenant_id', p_tenant, 'run_id', p_run, 'causation', p_causation, 'seq', p_seq,
                              'at', p_now, 'traceparent', p_trace, 'value', p_value, 'state', p_state)
$$;

-- receive(items, offsets, now): the batch with the offsets that it covers, in one transaction; the answers in the order of the items. What is refused
-- counts as read only with its dead letter, which comes next: whoever dies before leaves an offset that is read again.
create function receive(p_items jsonb, p_offsets jsonb, p_now timestamptz) returns setof jsonb language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off as $$
declare i jsonb; v_answers jsonb[] := '{}'; v_requests jsonb; u record; v_n integer := 0; v_answer jsonb; v_refused jsonb[] := '{}'; v_first bigint; v_at bigint;
begin
    select jsonb_agg(e.value || jsonb_build_object('n', e.n)) into v_requests
    from jsonb_array_elements(p_items) with ordinality e(value, n) where e.value ->> 'kind' = 'request';
    if v_requests is not null then
        perform 1 from tenant_heads h where h.tenant_id in (select e ->> 'tenant' from jsonb_array_elements(p_items) e) order by h.tenant_id for update;
        for u in select * from accept_usual(v_requests, p_now, true) loop
            v_answers[u.n] := u.answer;
        end loop;
    end if;
    for i in select value from jsonb_array_elements(p_items) loop
        v_n := v_n + 1;
        v_answer := coalesce(v_answers[v_n], case i ->> 'kind' when 'request' then accept_request(i, p_now) when 'completion' then complete_job(i, p_now)
            when 'dead' then bury(i, p_now) when 'expansion' then begin_expansion(i, p_now) end);
        if v_answer ->> 'result' = 'refused' and i ? 'offset' then v_refused := v_refused || i; end if;
        return next v_answer;
    end loop;
    for i in select value from jsonb_array_elements(p_offsets) o order by value ->> 'topic', (value ->> 'partition')::int, (value ->> 'first')::bigint loop
        v_first := (i ->> 'first')::bigint;
        for v_at in select (r ->> 'offset')::bigint from unnest(v_refused) r where r ->> 'topic' = i ->> 'topic' and r -> 'partition' = i -> 'partition'
                    and (r ->> 'offset')::bigint >= v_first and (r ->> 'offset')::bigint < (i ->> 'next')::bigint order by 1 loop
            if v_first < v_at then perform advance(i ->> 'topic', (i ->> 'partition')::int, v_first, v_at); end if;
            v_first := v_at + 1;
        end loop;
        if v_first < (i ->> 'next')::bigint then perform advance(i ->> 'topic', (i ->> 'partition')::int, v_first, (i ->> 'next')::bigint); end if;
    end loop;
end $$;
