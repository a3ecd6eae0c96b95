-- The hot path: what most commits are (a stage gave its event; another stage follows, or the run succeeds), for many runs in one statement.
-- It takes what nothing else touches (nothing cancelled, paused, limited, waiting or pending) and leaves the rest to commit_step, to the same
-- rows and journal entries; the caller never gives it two items of one tenant.

-- hand_over(columns of the items, now): as commit_step with outcome `done`. One element an item in each array.
-- effects: {all: [...]}. p_next null: the run ends with p_finish as the id of its run.finished. p_hold: seconds to wait for the event's echo. p_lease: the next step goes to p_worker.
-- Gives a row for each item that was carried out: its place n (from 1), journal number and outbox id of its event, then what began: the next step's
-- round and fence (and whether it was leased), or the data and outbox id of run.finished, whose number is one higher.
-- `done` finds out all there is to know, under the tenants' locks; what follows only writes it down, so that the cost grows with the batch and not with its
-- square. Plans are pinned to index look-ups: a generic plan made on empty tables would scan full ones.
create function hand_over(
    p_run uuid[], p_tenant text[], p_stage text[], p_fence bigint[], p_output jsonb[], p_type text[], p_event uuid[], p_next text[], p_hold float8[],
    p_lease boolean[], p_finish uuid[], p_effects jsonb[], p_worker uuid, p_now timestamptz
) returns table (n bigint, seq bigint, outbox_id bigint, next_round integer, next_fence bigint, leased boolean, finished jsonb, finished_outbox bigint)
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set plan_cache_mode = force_generic_plan as $$
begin
    perform 1 from tenant_heads h where h.tenant_id = any(p_tenant) order by h.tenant_id for update;
    return query
    with x as materialized (   -- looked up by primary keys before anything is asked of it: a partial index of open runs must not seem the shorter way
        select u.*, r.state as run_state, r.pipeline, r.traceparent, r.warnings, r.started_at as run_started_at, h.paused, t.seq + 1 as seq,
            coalesce(h.active_run = u.run_id and h.pending_run is null, false) as alone, coalesce(f.round, 0) + 1 as next_round, coalesce(f.fence, 0) + 1 as next_fence
        from unnest(p_run, p_tenant, p_stage, p_fence, p_output, p_type, p_event, p_next, p_hold, p_lease, p_finish, p_effects) with ordinality
                as u(run_id, tenant, stage, fence, output, output_type, event_id, next_stage, hold, lease, finish_id, effects, n)
            join runs r on r.run_id = u.run_id
            join pipeline_heads h on h.tenant_id = r.tenant_id and h.pipeline = r.pipeline
            join tenant_heads t on t.tenant_id = u.tenant
            left join steps f on f.run_id = u.run_id and f.stage = u.next_stage
    ), done as (
        update steps s set state = 'done', output = x.output, output_type = x.output_type, code = null, error = null, worker = null,
            waiting_for = null, finished_at = p_now
        from x
        where s.run_id = x.run_id and s.stage = x.stage and s.worker is not distinct from p_worker and s.fence = x.fence and s.state = 'running' and s.limit_name is null
          and x.run_state = 'running' and not x.paused and (x.next_stage is not null or x.alone)
        returning x.*, s.round, s.attempt, s.started_at, s.input_id, nextval('outbox_id_seq') as outbox_id,
            case when x.next_stage is null then nextval('outbox_id_seq') end as over_outbox,
            case when x.next_stage is null then jsonb_strip_nulls(jsonb_build_object('tenant_id', x.tenant, 'run_id', x.run_id, 'pipeline', x.pipeline, 'outcome',
                case when x.warnings > 0 then 'succeeded_with_warnings' else 'succeeded' end, 'started_at', x.run_started_at, 'finished_at', p_now)) end as over
    ), numbered as (
        update tenant_heads h set seq = d.seq + (d.over is not null)::int from done d where h.tenant_id = d.tenant
    ), noted as (
        insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
        select d.tenant, d.seq, p_now, d.run_id, 'step', d.event_id, d.output_type, d.input_id,
            jsonb_build_object('stage', d.stage, 'state', 'done', 'round', d.round, 'attempt', d.attempt, 'started_at', d.started_at,
                'output_type', d.output_type, 'event', d.event_id, 'output', d.output)
            || case when d.over is null then jsonb_build_object('next', jsonb_build_object('stage', d.next_stage)) else '{}' end
        from done d
        union all
        select d.tenant, d.seq + 1, p_now, d.run_id, 'finished', d.finish_id, 'run.finished', null, d.over from done d where d.over is not null
    ), moved as (
        update runs r set version = d.seq, stage = d.next_stage
        from done d where r.run_id = d.run_id and d.over is null
    ), ended as (   -- apart, so that what watches the ends of runs looks at ends alone
        update runs r set version = d.seq + 1, state = d.over ->> 'outcome', finished_at = p_now from done d where r.run_id = d.run_id and d.over is not null
    ), freed as (
        update pipeline_heads h set active_run = null from done d where d.over is not null and h.tenant_id = d.tenant and h.pipeline = d.pipeline
    ), effected as (
        insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, worker, sent_at)
        select e.key, d.run_id, d.tenant, d.stage, d.round, e.command, e.status, decode(e.request_sha256, 'hex'), decode(e.reply_sha256, 'hex'), e.reply,
            p_worker, e.sent_at
        from done d, jsonb_to_recordset(d.effects -> 'all') e(key text, command text, status int, request_sha256 text, reply_sha256 text, reply jsonb, sent_at timestamptz)
    ), told as (
        insert into outbox (id, event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state) overriding system value
        select d.outbox_id, d.event_id, d.output_type, d.tenant, d.run_id, d.input_id, d.seq, p_now, d.traceparent, d.output::text, true from done d
        union all
        select d.over_outbox, d.finish_id, 'run.finished', d.tenant, d.run_id, null, d.seq + 1, p_now, d.traceparent, d.over::text, true
        from done d where d.over is not null
    ), following as (
        insert into steps (run_id, stage, tenant_id, pipeline, state, round, due_at, worker, fence, input, input_type, input_id, ready_at, started_at)
        select d.run_id, d.next_stage, d.tenant, d.pipeline, case when d.lease then 'running' else 'ready' end, d.next_round,
            p_now + make_interval(secs => d.hold), case when d.lease then p_worker end, d.next_fence, d.output, d.output_type, d.event_id, p_now,
            case when d.lease then p_now end
        from done d where d.over is null
        on conflict (run_id, stage) do update set
            state = excluded.state, round = excluded.round, attempt = 1, takeovers = 0, due_at = excluded.due_at, deadline = null,
            worker = excluded.worker, fence = excluded.fence, limit_name = null, input = excluded.input,
            input_type = excluded.input_type, input_id = excluded.input_id, job = null, output = null, output_type = null,
            code = null, error = null, waiting_for = null, ready_at = excluded.ready_at, started_at = excluded.started_at,
            waiting_at = null, finished_at = null
    )
    select d.n, d.seq, d.outbox_id, d.next_round, d.next_fence, d.lease, d.over, d.over_outbox from done d;
end $$;
