-- The hot path: the hand-overs of many runs in one statement. It takes what most commits are (a stage gave its event, another stage
-- follows, nothing is cancelled, paused, limited or waiting) and leaves the rest to commit_step, to the same rows and journal entries.

-- hand_over(items, now): as commit_step with outcome `done` and a next stage, for items of different tenants at once.
-- item: n, run_id, tenant, stage, worker, fence, round, output, output_type, event_id, next {stage, hold}, next_worker, effects
-- Gives n, seq, outbox id, the next step's round and fence, and whether it was leased, for each item that was carried out; the caller sends
-- the others to commit_step, which says why. Plans are pinned to index look-ups: a generic plan made on empty tables would scan full ones.
create function hand_over(p_items jsonb, p_now timestamptz)
returns table (n integer, seq bigint, outbox_id bigint, next_round integer, next_fence bigint, leased boolean) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
    perform 1 from tenant_heads h where h.tenant_id in (select e ->> 'tenant' from jsonb_array_elements(p_items) e) order by h.tenant_id for update;
    return query
    with x as materialized (
        select (e ->> 'n')::int as n, (e ->> 'run_id')::uuid as run_id, e ->> 'tenant' as tenant, e ->> 'stage' as stage, (e ->> 'worker')::uuid as worker,
            (e ->> 'fence')::bigint as fence, e -> 'output' as output, e ->> 'output_type' as output_type, (e ->> 'event_id')::uuid as event_id,
            e -> 'next' ->> 'stage' as next_stage, coalesce((e -> 'next' ->> 'hold')::float8, 0) as hold, (e ->> 'next_worker')::uuid as next_worker,
            (e -> 'next') - 'hold' as next_entry, e -> 'effects' as effects
        from jsonb_array_elements(p_items) e
    ), done as (
        update steps s set state = 'done', output = x.output, output_type = x.output_type, code = null, error = null, worker = null,
            waiting_for = null, finished_at = p_now
        from x join runs r on r.run_id = x.run_id
        where s.run_id = x.run_id and s.stage = x.stage and s.worker = x.worker and s.fence = x.fence and s.state = 'running' and s.limit_name is null
          and r.state = 'running'
          and not exists (select 1 from pipeline_heads h where h.tenant_id = r.tenant_id and h.pipeline = r.pipeline and h.paused)
        returning x.*, s.pipeline, s.round, s.attempt, s.started_at, s.input_id, r.traceparent
    ), numbered as (
        update tenant_heads h set seq = h.seq + 1 from done d where h.tenant_id = d.tenant returning d.n, h.seq
    ), noted as (
        insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
        select d.tenant, m.seq, p_now, d.run_id, 'step', d.event_id, d.output_type, d.input_id,
            jsonb_build_object('stage', d.stage, 'state', 'done', 'round', d.round, 'attempt', d.attempt, 'started_at', d.started_at,
                'output_type', d.output_type, 'next', jsonb_strip_nulls(d.next_entry), 'event', d.event_id, 'output', d.output)
        from done d join numbered m on m.n = d.n
    ), moved as (
        update runs r set version = m.seq, stage = d.next_stage from done d join numbered m on m.n = d.n where r.run_id = d.run_id
    ), effected as (
        insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, worker, sent_at)
        select f ->> 'key', d.run_id, d.tenant, d.stage, d.round, f ->> 'command', (f ->> 'status')::int, decode(f ->> 'request_sha256', 'hex'),
            decode(f ->> 'reply_sha256', 'hex'), f -> 'reply', d.worker, (f ->> 'sent_at')::timestamptz
        from done d, jsonb_array_elements(d.effects) f
    ), out as (
        insert into outbox (event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state)
        select d.event_id, d.output_type, d.tenant, d.run_id, d.input_id, m.seq, p_now, d.traceparent, d.output::text, true
        from done d join numbered m on m.n = d.n returning outbox.id, outbox.event_id
    ), following as (
        insert into steps as s (run_id, stage, tenant_id, pipeline, state, round, due_at, worker, fence, input, input_type, input_id, ready_at, started_at)
        select d.run_id, d.next_stage, d.tenant, d.pipeline, case when d.next_worker is null then 'ready' else 'running' end, 1,
            p_now + make_interval(secs => d.hold), d.next_worker, 1, d.output, d.output_type, d.event_id, p_now, case when d.next_worker is not null then p_now end
        from done d
        on conflict (run_id, stage) do update set
            state = excluded.state, round = s.round + 1, attempt = 1, takeovers = 0, due_at = excluded.due_at, deadline = null,
            worker = excluded.worker, fence = s.fence + 1, limit_name = null, input = excluded.input,
            input_type = excluded.input_type, input_id = excluded.input_id, job = null, output = null, output_type = null,
            code = null, error = null, waiting_for = null, ready_at = excluded.ready_at, started_at = excluded.started_at,
            waiting_at = null, finished_at = null
        returning s.run_id, s.round, s.fence, s.worker
    )
    select d.n, m.seq, o.id, f.round, f.fence, f.worker is not null
    from done d join numbered m on m.n = d.n join out o on o.event_id = d.event_id join following f on f.run_id = d.run_id;
end $$;

-- commit_batch(usual, rest, now): one batch of outcomes, the usual ones set-based. What hand_over did not take, and the rest, go one by one.
create function commit_batch(p_usual jsonb, p_rest jsonb, p_now timestamptz) returns table (n integer, answer jsonb) language plpgsql as $$
declare h record; i jsonb; v_taken integer[] := '{}';
begin
    if jsonb_array_length(p_usual) > 0 then
        for h in select * from hand_over(p_usual, p_now) loop
            v_taken := v_taken || h.n;
            n := h.n;
            answer := jsonb_build_object('result', 'handed', 'seq', h.seq, 'outbox_id', h.outbox_id, 'round', h.next_round, 'fence', h.next_fence, 'leased', h.leased);
            return next;
        end loop;
    end if;
    for i in select value from jsonb_array_elements(p_usual || p_rest) where (value ->> 'n')::int <> all (v_taken) order by value ->> 'tenant' loop
        n := (i ->> 'n')::int;
        answer := commit_step(i, p_now);
        return next;
    end loop;
end $$;
