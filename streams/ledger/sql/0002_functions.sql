-- The ledger's moves. Each takes one item as jsonb and runs inside the batch's transaction; statements inside a
-- function see what other sessions committed before the tenant's row was locked, so lock first, look after.
-- Lock order everywhere: tenant, (run and step ride on the tenant's lock), job.

-- lock_tenant(tenant): take the tenant's lock; false when there is no such tenant.
create function lock_tenant(p_tenant text) returns boolean language plpgsql as $$
begin
    perform 1 from tenant_heads where tenant_id = p_tenant for update;
    return found;
end $$;

-- note(tenant, run, kind, data, now, event id, topic, causation): append to the tenant's journal, under its lock; gives the number.
create function note(p_tenant text, p_run uuid, p_kind text, p_data jsonb, p_now timestamptz,
                     p_event uuid default null, p_topic text default null, p_causation uuid default null)
returns bigint language plpgsql as $$
declare v_seq bigint;
begin
    update tenant_heads set seq = seq + 1 where tenant_id = p_tenant returning seq into v_seq;
    insert into journal (tenant_id, seq, at, run_id, kind, event_id, topic, causation, data)
    values (p_tenant, v_seq, p_now, p_run, p_kind, p_event, p_topic, p_causation, p_data);
    return v_seq;
end $$;

-- given(name, value): {name: value}, or nothing when there is none. Unlike jsonb_strip_nulls it leaves the value itself as it is.
create function given(p_name text, p_value jsonb) returns jsonb language sql immutable as $$
    select case when p_value is null then '{}' else jsonb_build_object(p_name, p_value) end
$$;

-- run_state(run): the run as the topic run.state shows it.
create function run_state(p_run runs) returns jsonb language sql stable as $$
    select jsonb_build_object('tenant_id', p_run.tenant_id, 'run_id', p_run.run_id, 'pipeline', p_run.pipeline,
        'pipeline_version', p_run.pipeline_version, 'state', p_run.state, 'stage', p_run.stage, 'causes', p_run.causes,
        'version', p_run.version, 'warnings', p_run.warnings, 'code', p_run.code, 'reason', p_run.reason,
        'requested_at', p_run.requested_at, 'started_at', p_run.started_at, 'finished_at', p_run.finished_at)
$$;

-- emit(...): put an event and/or word that the run changed into the outbox; gives the row as the publisher wants it.
create function emit(p_event uuid, p_topic text, p_tenant text, p_run uuid, p_causation uuid, p_seq bigint,
                     p_now timestamptz, p_trace text, p_value text, p_state boolean) returns jsonb language plpgsql as $$
declare v outbox;
begin
    insert into outbox (event_id, topic, tenant_id, run_id, causation, seq, at, traceparent, value, state)
    values (p_event, p_topic, p_tenant, p_run, p_causation, p_seq, p_now, p_trace, p_value, coalesce(p_state, false)) returning * into v;
    return to_jsonb(v) - 'worker';
end $$;

-- has_quota(tenant): whether the tenant's own settings bound how much of it goes on; then the dispatcher begins its runs.
create function has_quota(p_tenant text) returns boolean language sql stable as $$
    select settings -> 'dispatch' ?| '{concurrent,per_hour,burst}' from tenants where tenant_id = p_tenant
$$;

-- set_step_ready(run, next, input, now, worker): the run's next step, leased to `worker` or left for the dispatcher; a stage
-- that ran before (a reopened run) gets its next round. `next`: {stage, limit, hold: seconds to wait for the event's echo}.
create function set_step_ready(p_run runs, p_next jsonb, p_input jsonb, p_type text, p_input_id uuid, p_now timestamptz, p_worker uuid)
returns steps language plpgsql as $$
declare v steps; v_lease uuid := p_worker;
begin
    if p_next ->> 'limit' is not null or coalesce((select paused from pipeline_heads
            where tenant_id = p_run.tenant_id and pipeline = p_run.pipeline), false)
       or v_lease is not null and p_input_id = p_run.request_id and has_quota(p_run.tenant_id) then
        v_lease := null;
    end if;
    insert into steps as s (run_id, stage, tenant_id, pipeline, state, round, due_at, worker, fence, limit_name,
                            input, input_type, input_id, ready_at, started_at)
    values (p_run.run_id, p_next ->> 'stage', p_run.tenant_id, p_run.pipeline,
            case when v_lease is null then 'ready' else 'running' end, 1,
            p_now + make_interval(secs => coalesce((p_next ->> 'hold')::float8, 0)), v_lease, 1, p_next ->> 'limit',
            p_input, p_type, p_input_id, p_now, case when v_lease is null then null else p_now end)
    on conflict (run_id, stage) do update set
        state = excluded.state, round = s.round + 1, attempt = 1, takeovers = 0, due_at = excluded.due_at, deadline = null,
        worker = excluded.worker, fence = s.fence + 1, limit_name = excluded.limit_name, input = excluded.input,
        input_type = excluded.input_type, input_id = excluded.input_id, job = null, output = null, output_type = null,
        code = null, error = null, waiting_for = null, ready_at = excluded.ready_at, started_at = excluded.started_at,
        waiting_at = null, finished_at = null
    returning * into v;
    return v;
end $$;

-- start_pending(head, now): the tenant's follow-up becomes its active run; its first step waits for the dispatcher.
-- `first` = {stage, limit, type} of the pipeline's first stage.
create function start_pending(p_tenant text, p_pipeline text, p_first jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare v_head pipeline_heads; v_run runs; v_seq bigint;
begin
    select * into v_head from pipeline_heads where tenant_id = p_tenant and pipeline = p_pipeline for update;
    update pipeline_heads set active_run = v_head.pending_run, pending_run = null where tenant_id = p_tenant and pipeline = p_pipeline;
    if v_head.pending_run is null then return null; end if;
    v_seq := note(p_tenant, v_head.pending_run, 'started', p_first, p_now);
    update runs set state = 'running', stage = p_first ->> 'stage', started_at = p_now, version = v_seq
    where run_id = v_head.pending_run returning * into v_run;
    perform set_step_ready(v_run, p_first - 'hold', v_run.request, p_first ->> 'type', v_run.request_id, p_now, null);
    return emit(gen_random_uuid(), null, p_tenant, v_run.run_id, null, v_seq, p_now, v_run.traceparent, null, true);
end $$;

-- finish_run(run, outcome, code, reason, first, now): the run is over, its end goes out, the follow-up begins.
create function finish_run(p_run uuid, p_outcome text, p_code text, p_reason text, p_event uuid, p_first jsonb, p_now timestamptz)
returns jsonb language plpgsql as $$
declare v_run runs; v_seq bigint; v_value jsonb; v_out jsonb; v_more jsonb;
begin
    select * into v_run from runs where run_id = p_run;
    v_value := jsonb_strip_nulls(jsonb_build_object('tenant_id', v_run.tenant_id, 'run_id', p_run, 'pipeline', v_run.pipeline,
        'outcome', p_outcome, 'code', p_code, 'reason', p_reason, 'started_at', v_run.started_at, 'finished_at', p_now));
    v_seq := note(v_run.tenant_id, p_run, 'finished', v_value, p_now, p_event, 'run.finished');
    update runs set state = p_outcome, code = p_code, reason = p_reason, finished_at = p_now, version = v_seq
    where run_id = p_run returning * into v_run;
    delete from limit_slots where run_id = p_run;
    v_out := jsonb_build_array(emit(p_event, 'run.finished', v_run.tenant_id, p_run, null, v_seq, p_now, v_run.traceparent,
                                    v_value::text, true));
    update pipeline_heads set active_run = null
    where tenant_id = v_run.tenant_id and pipeline = v_run.pipeline and active_run = p_run;
    if found then
        v_more := start_pending(v_run.tenant_id, v_run.pipeline, p_first, p_now);
        if v_more is not null then v_out := v_out || v_more; end if;
    end if;
    return v_out;
end $$;

-- leased(step): what an executor needs to know of a step that it holds.
create function leased(p_step steps, p_run runs) returns jsonb language sql stable as $$
    select jsonb_build_object('run_id', p_step.run_id, 'stage', p_step.stage, 'tenant_id', p_step.tenant_id, 'pipeline', p_step.pipeline,
        'state', p_step.state, 'round', p_step.round, 'attempt', p_step.attempt, 'takeovers', p_step.takeovers, 'fence', p_step.fence,
        'input', p_step.input, 'input_type', p_step.input_type, 'input_id', p_step.input_id, 'job', p_step.job, 'output', p_step.output,
        'deadline', p_step.deadline, 'started_at', p_step.started_at, 'run_state', p_run.state, 'traceparent', p_run.traceparent)
$$;

-- pass_on(run, step, output, event, next, worker): a step is done; the next one begins or the run succeeds. Under the tenant's lock.
create function pass_on(p_run runs, p_stage text, p_round integer, p_output jsonb, p_type text, p_event uuid, p_publish boolean,
                        p_skipped jsonb, p_next jsonb, p_finish uuid, p_first jsonb, p_now timestamptz, p_worker uuid)
returns jsonb language plpgsql as $$
declare v_seq bigint; v_run runs; v_step steps; v_out jsonb := '[]'; v_cause uuid; v_data jsonb;
begin
    update steps set state = case when p_skipped is null then 'done' else 'skipped' end, output = p_output, output_type = p_type,
        code = p_skipped ->> 'code', error = p_skipped ->> 'error', worker = null, waiting_for = null, finished_at = p_now
    where run_id = p_run.run_id and stage = p_stage returning * into v_step;
    delete from limit_slots where run_id = p_run.run_id and stage = p_stage;
    v_cause := v_step.input_id;
    v_data := jsonb_strip_nulls(jsonb_build_object('stage', p_stage, 'state', v_step.state, 'round', p_round, 'attempt', v_step.attempt,
        'started_at', v_step.started_at, 'output_type', p_type, 'code', v_step.code, 'error', v_step.error,
        'next', case when p_run.state = 'running' then p_next - 'hold' end, 'event', p_event)) || given('output', p_output);
    v_seq := note(p_run.tenant_id, p_run.run_id, 'step', v_data, p_now, case when p_publish then p_event end, case when p_publish then p_type end, v_cause);
    update runs set version = v_seq, stage = case when p_next is not null and state = 'running' then p_next ->> 'stage' else stage end,
        warnings = warnings + (p_skipped is not null)::int
    where run_id = p_run.run_id returning * into v_run;
    v_out := v_out || emit(coalesce(p_event, gen_random_uuid()), case when p_publish then p_type end, v_run.tenant_id, v_run.run_id,
                           v_cause, v_seq, p_now, v_run.traceparent, case when p_publish then p_output::text end, true);
    if p_next is null then
        v_out := v_out || finish_run(v_run.run_id, case when v_run.warnings > 0 then 'succeeded_with_warnings' else 'succeeded' end,
                                     p_skipped ->> 'code', p_skipped ->> 'error', p_finish, p_first, p_now);
        return jsonb_build_object('result', 'finished', 'outbox', v_out);
    elsif v_run.state = 'cancelling' then
        v_out := v_out || finish_run(v_run.run_id, 'cancelled', 'cancelled', 'cancelled by request', p_finish, p_first, p_now);
        return jsonb_build_object('result', 'finished', 'outbox', v_out);
    end if;
    v_step := set_step_ready(v_run, p_next, p_output, p_type, p_event, p_now, p_worker);
    return jsonb_build_object('result', 'next', 'outbox', v_out,
        'step', case when v_step.worker is not null then leased(v_step, v_run) end, 'hold', p_next -> 'hold');
end $$;
