-- Many requests at once: what most due slots are (an active tenant, nothing of its pipeline open) is accepted in one statement; the rest
-- goes to accept_request, to the same rows and journal entries.

-- accept_usual(items, now): as accept_request, for items of different tenants that publish their requests and lease nothing. Gives n and the
-- answer for each that was carried out. Plans are pinned to index look-ups, as in hand_over;
-- the parts of the batch itself are hashed: it is larger than one of hand_over.
create function accept_usual(p_items jsonb, p_now timestamptz) returns table (n integer, answer jsonb) language plpgsql
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    perform 1 from tenant_heads h where h.tenant_id in (select e ->> 'tenant' from jsonb_array_elements(p_items) e) order by h.tenant_id for update;
    return query
    with x as materialized (
        select distinct on (e ->> 'tenant') (e ->> 'n')::int as n, e ->> 'tenant' as tenant, (e ->> 'event_key')::uuid as event_key, (e ->> 'event_id')::uuid as event_id,
            decode(e ->> 'body', 'hex') as body, e ->> 'topic' as topic, e ->> 'pipeline' as pipeline, e ->> 'version' as version, (e ->> 'run_id')::uuid as run_id,
            e -> 'first' as first, e -> 'data' as data, (e ->> 'accepted_id')::uuid as accepted_id, e ->> 'traceparent' as traceparent
        from jsonb_array_elements(p_items) e order by e ->> 'tenant', (e ->> 'n')::int
    ), usual as materialized (
        select x.*, jsonb_build_object('tenant_id', x.tenant, 'run_id', x.run_id, 'pipeline', x.pipeline, 'pipeline_version', x.version,
                                       'causes', jsonb_build_array(x.event_id), 'round', 1) as value
        from x join tenants t on t.tenant_id = x.tenant
        where t.status = 'active' and not exists (select 1 from inbox i where i.event_key = x.event_key) and not exists (select 1 from reconciling)
          and not exists (select 1 from pipeline_heads h where h.tenant_id = x.tenant and h.pipeline = x.pipeline and (h.active_run is not null or h.pending_run is not null))
    ), u as (   -- everything below reads this alone: joins of the batch with itself would be nested loops
        update tenant_heads h set seq = h.seq + 2 from usual where h.tenant_id = usual.tenant returning usual.*, h.seq
    ), heads as (
        insert into pipeline_heads (tenant_id, pipeline, active_run) select u.tenant, u.pipeline, u.run_id from u
        on conflict (tenant_id, pipeline) do update set active_run = excluded.active_run
    ), received as (
        insert into inbox (event_key, tenant_id, topic, event_id, body, run_id, fate, at)
        select u.event_key, u.tenant, u.topic, u.event_id, u.body, u.run_id, 'run', p_now from u
    ), caused as (
        insert into causes (run_id, event_id, at, data) select u.run_id, u.event_id, p_now, u.data from u
    ), noted as (
        insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
        select u.tenant, u.seq - 1, p_now, u.run_id, 'requested', u.event_id, u.topic, null::uuid, u.data from u
        union all
        select u.tenant, u.seq, p_now, u.run_id, 'accepted', u.accepted_id, 'run.accepted', u.event_id,
            u.value || jsonb_build_object('request', u.data, 'cause', u.event_id, 'first', u.first - 'hold', 'pending', false, 'traceparent', u.traceparent)
        from u
    ), begun as (
        insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, stage, request, request_id, causes, version, requested_at, started_at, traceparent)
        select u.run_id, u.tenant, u.pipeline, u.version, 'running', u.first ->> 'stage', u.data, u.event_id, 1, u.seq, p_now, p_now, u.traceparent from u
    ), ready as (
        insert into steps (run_id, stage, tenant_id, pipeline, state, round, due_at, fence, limit_name, input, input_type, input_id, ready_at)
        select u.run_id, u.first ->> 'stage', u.tenant, u.pipeline, 'ready', 1, p_now + make_interval(secs => coalesce((u.first ->> 'hold')::float8, 0)), 1,
            u.first ->> 'limit', u.data, u.first ->> 'type', u.event_id, p_now
        from u
    ), out as (
        insert into outbox as o (event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state)
        select * from (
            select u.event_id, u.topic, u.tenant, u.run_id, null::uuid, u.seq - 1 as seq, p_now, u.traceparent, u.data::text, false from u
            union all
            select u.accepted_id, 'run.accepted', u.tenant, u.run_id, u.event_id, u.seq, p_now, u.traceparent, u.value::text, true from u
        ) each order by 3, 6
        returning o.run_id, to_jsonb(o) as row, o.seq
    )
    select min(x.n), jsonb_build_object('result', 'run', 'run_id', o.run_id, 'outbox', jsonb_agg(o.row order by o.seq))
    from out o join x on x.run_id = o.run_id group by o.run_id;
end $$;

-- accept_many(items, now): one batch of requests of our own (timers); each item has its number n. Answers in that order.
create function accept_many(p_items jsonb, p_now timestamptz) returns table (n integer, answer jsonb) language plpgsql as $$
declare i jsonb; v_taken integer[] := '{}';
begin
    for n, answer in select u.n, u.answer from accept_usual(p_items, p_now) u loop
        v_taken := v_taken || n;
        return next;
    end loop;
    for i in select value from jsonb_array_elements(p_items) where (value ->> 'n')::int <> all (v_taken) order by value ->> 'tenant' loop
        n := (i ->> 'n')::int;
        answer := accept_request(i, p_now);
        return next;
    end loop;
end $$;
