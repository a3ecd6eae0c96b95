-- The hot path: what most commits are (a stage gave its event; another stage follows, or the run succeeds), for many runs in one statement.
-- It takes what nothing else touches (nothing cancelled, paused, limited, waiting or pending) and leaves the rest to commit_step, to the same
-- rows and journal entries; the caller never gives it two items of one tenant.

-- hand_over(columns of the items, now): as commit_step with outcome `done`. One element an item in each array; effects: [{n, ...}] with n the item's place.
-- p_next null: the run ends with p_finish as the id of its run.finished. p_hold: seconds to wait for the event's echo. p_lease: the next step goes to p_worker.
-- Gives a row for each item that was carried out: its place n (from 1), journal number and outbox id of its event, then what began: the next step's
-- round and fence (and whether it was leased), or the data, journal number and outbox id of run.finished.
-- Plans are pinned to index look-ups: a generic plan made on empty tables would scan full ones.
create function hand_over(
    p_run uuid[], p_tenant text[], p_stage text[], p_fence bigint[], p_output jsonb[], p_type text[], p_event uuid[], p_next text[], p_hold float8[],
    p_lease boolean[], p_finish uuid[], p_effects jsonb, p_worker uuid, p_now timestamptz
) returns table (n bigint, seq bigint, outbox_id bigint, next_round integer, next_fence bigint, leased boolean,
                 finished jsonb, finished_seq bigint, finished_outbox bigint) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
    perform 1 from tenant_heads h where h.tenant_id = any(p_tenant) order by h.tenant_id for update;
    return query
    with x as materialized (
        select * from unnest(p_run, p_tenant, p_stage, p_fence, p_output, p_type, p_event, p_next, p_hold, p_lease, p_finish) with ordinality
            as u(run_id, tenant, stage, fence, output, output_type, event_id, next_stage, hold, lease, finish_id, n)
    ), done as (
        update steps s set state = 'done', output = x.output, output_type = x.output_type, code = null, error = null, worker = null,
            waiting_for = null, finished_at = p_now
        from x join runs r on r.run_id = x.run_id
            join pipeline_heads h on h.tenant_id = r.tenant_id and h.pipeline = r.pipeline
        where s.run_id = x.run_id and s.stage = x.stage and s.worker = p_worker and s.fence = x.fence and s.state = 'running' and s.limit_name is null
          and r.state = 'running' and not h.paused and (x.next_stage is not null or h.active_run = x.run_id and h.pending_run is null)
        returning x.*, s.pipeline, s.round, s.attempt, s.started_at, s.input_id, r.traceparent, r.warnings, r.started_at as run_started_at,
            case when x.next_stage is null then jsonb_strip_nulls(jsonb_build_object('tenant_id', x.tenant, 'run_id', x.run_id, 'pipeline', r.pipeline,
                'outcome', case when r.warnings > 0 then 'succeeded_with_warnings' else 'succeeded' end, 'started_at', r.started_at, 'finished_at', p_now)) end as over
    ), numbered as (
        update tenant_heads h set seq = h.seq + case when d.over is null then 1 else 2 end from done d where h.tenant_id = d.tenant
        returning d.n, case when d.over is null then h.seq else h.seq - 1 end as seq
    ), noted as (
        insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
        select d.tenant, m.seq, p_now, d.run_id, 'step', d.event_id, d.output_type, d.input_id,
            jsonb_build_object('stage', d.stage, 'state', 'done', 'round', d.round, 'attempt', d.attempt, 'started_at', d.started_at,
                'output_type', d.output_type, 'event', d.event_id, 'output', d.output)
            || case when d.over is null then jsonb_build_object('next', jsonb_build_object('stage', d.next_stage)) else '{}' end
        from done d join numbered m on m.n = d.n
        union all
        select d.tenant, m.seq + 1, p_now, d.run_id, 'finished', d.finish_id, 'run.finished', null, d.over
        from done d join numbered m on m.n = d.n where d.over is not null
    ), moved as (
        update runs r set version = m.seq + (d.over is not null)::int, stage = coalesce(d.next_stage, r.stage), state = coalesce(d.over ->> 'outcome', r.state),
            finished_at = case when d.over is not null then p_now end
        from done d join numbered m on m.n = d.n where r.run_id = d.run_id
    ), freed as (
        update pipeline_heads h set active_run = null from done d
        where d.over is not null and h.tenant_id = d.tenant and h.pipeline = d.pipeline and h.active_run = d.run_id
    ), effected as (
        insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, worker, sent_at)
        select f.key, d.run_id, d.tenant, d.stage, d.round, f.command, f.status, decode(f.request_sha256, 'hex'), decode(f.reply_sha256, 'hex'), f.reply,
            p_worker, f.sent_at
        from jsonb_to_recordset(p_effects) f(n bigint, key text, command text, status int, request_sha256 text, reply_sha256 text, reply jsonb, sent_at timestamptz)
            join done d on d.n = f.n
    ), out as (
        insert into outbox (event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state)
        select d.event_id, d.output_type, d.tenant, d.run_id, d.input_id, m.seq, p_now, d.traceparent, d.output::text, true
        from done d join numbered m on m.n = d.n
        union all
        select d.finish_id, 'run.finished', d.tenant, d.run_id, null, m.seq + 1, p_now, d.traceparent, d.over::text, true
        from done d join numbered m on m.n = d.n where d.over is not null
        returning outbox.id, outbox.event_id
    ), following as (
        insert into steps as s (run_id, stage, tenant_id, pipeline, state, round, due_at, worker, fence, input, input_type, input_id, ready_at, started_at)
        select d.run_id, d.next_stage, d.tenant, d.pipeline, case when d.lease then 'running' else 'ready' end, 1,
            p_now + make_interval(secs => d.hold), case when d.lease then p_worker end, 1, d.output, d.output_type, d.event_id, p_now,
            case when d.lease then p_now end
        from done d where d.over is null
        on conflict (run_id, stage) do update set
            state = excluded.state, round = s.round + 1, attempt = 1, takeovers = 0, due_at = excluded.due_at, deadline = null,
            worker = excluded.worker, fence = s.fence + 1, limit_name = null, input = excluded.input,
            input_type = excluded.input_type, input_id = excluded.input_id, job = null, output = null, output_type = null,
            code = null, error = null, waiting_for = null, ready_at = excluded.ready_at, started_at = excluded.started_at,
            waiting_at = null, finished_at = null
        returning s.run_id, s.round, s.fence, s.worker
    )
    select d.n, m.seq, o.id, f.round, f.fence, f.worker is not null, d.over, m.seq + 1, e.id
    from done d join numbered m on m.n = d.n join out o on o.event_id = d.event_id
        left join following f on f.run_id = d.run_id and d.over is null left join out e on e.event_id = d.finish_id and d.over is not null;
end $$;
