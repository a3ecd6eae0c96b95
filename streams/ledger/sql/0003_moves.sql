-- The calls of the runtime: each takes one item of a batch as jsonb and says what became of it.

-- accept_request(item, now): a request becomes a run, or merges into the follow-up of the active one. Doing twice is a no-op.
-- item: event_key, event_id, body (hex), tenant, create (unknown tenants too), topic, partition, offset, pipeline, version, run_id,
--       first {stage, limit, type, hold}, data, accepted_id, worker, traceparent, publish (the request itself goes to Kafka: API, CLI, timer), abandoned
create function accept_request(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare
    v_tenant text := i ->> 'tenant'; v_key uuid := (i ->> 'event_key')::uuid; v_event uuid := (i ->> 'event_id')::uuid;
    v_run_id uuid := (i ->> 'run_id')::uuid; v_data jsonb := i -> 'data'; v_out jsonb := '[]'; v_worker uuid := (i ->> 'worker')::uuid;
    v_body bytea := decode(i ->> 'body', 'hex'); v_seen inbox; v_head pipeline_heads; v_run runs; v_step steps; v_seq bigint; v_status text; v_value jsonb;
begin
    if (i ->> 'publish')::boolean and exists (select 1 from reconciling) then return jsonb_build_object('result', 'refused', 'code', 'reconciling'); end if;
    if not lock_tenant(v_tenant) then
        if not coalesce((i ->> 'create')::boolean, false) then return jsonb_build_object('result', 'refused', 'code', 'unknown_tenant'); end if;
        insert into tenants (tenant_id, active_since) values (v_tenant, p_now) on conflict do nothing;
        insert into tenant_heads (tenant_id) values (v_tenant) on conflict do nothing;
        perform lock_tenant(v_tenant);
    end if;
    select * into v_seen from inbox where event_key = v_key;
    if found then
        if v_seen.body <> v_body then return jsonb_build_object('result', 'refused', 'code', 'key_reused', 'run_id', v_seen.run_id); end if;
        return jsonb_build_object('result', 'seen', 'run_id', v_seen.run_id, 'fate', v_seen.fate);
    end if;
    select status into v_status from tenants where tenant_id = v_tenant;
    if v_status <> 'active' then return jsonb_build_object('result', 'refused', 'code', 'tenant_' || v_status); end if;

    insert into pipeline_heads (tenant_id, pipeline) values (v_tenant, i ->> 'pipeline') on conflict do nothing;
    select * into v_head from pipeline_heads where tenant_id = v_tenant and pipeline = i ->> 'pipeline';
    if v_head.pending_run is not null then v_run_id := v_head.pending_run; end if;
    insert into inbox (event_key, tenant_id, topic, partition, "offset", event_id, body, run_id, fate, at)
    values (v_key, v_tenant, i ->> 'topic', (i ->> 'partition')::int, (i ->> 'offset')::bigint, v_event, v_body, v_run_id,
            case when v_head.pending_run is null then 'run' else 'merged' end, p_now);
    if (i ->> 'publish')::boolean then
        v_seq := note(v_tenant, v_run_id, 'requested', v_data, p_now, v_event, i ->> 'topic');
        v_out := v_out || emit(v_event, i ->> 'topic', v_tenant, v_run_id, null, v_seq, p_now, i ->> 'traceparent', v_data::text, null);
    end if;
    insert into causes (run_id, event_id, at, data) values (v_run_id, v_event, p_now, v_data);

    if v_head.pending_run is not null then
        v_seq := note(v_tenant, v_run_id, 'merged', jsonb_build_object('cause', v_event, 'request', v_data), p_now, null, null, v_event);
        update runs set request = v_data, request_id = v_event, causes = causes + 1, version = v_seq where run_id = v_run_id returning * into v_run;
        v_out := v_out || emit(gen_random_uuid(), null, v_tenant, v_run_id, v_event, v_seq, p_now, v_run.traceparent, null, true);
        return jsonb_build_object('result', 'merged', 'run_id', v_run_id, 'outbox', v_out);
    end if;

    v_value := jsonb_build_object('tenant_id', v_tenant, 'run_id', v_run_id, 'pipeline', i ->> 'pipeline', 'pipeline_version', i ->> 'version',
                                  'causes', jsonb_build_array(v_event), 'round', 1);
    v_seq := note(v_tenant, v_run_id, 'accepted', v_value || jsonb_build_object('request', v_data, 'cause', v_event, 'first', (i -> 'first') - 'hold',
                  'pending', v_head.active_run is not null, 'traceparent', i ->> 'traceparent'), p_now, (i ->> 'accepted_id')::uuid, 'run.accepted', v_event);
    insert into runs (run_id, tenant_id, pipeline, pipeline_version, state, stage, request, request_id, causes, version, requested_at, started_at, traceparent)
    values (v_run_id, v_tenant, i ->> 'pipeline', i ->> 'version', case when v_head.active_run is null then 'running' else 'pending' end,
            case when v_head.active_run is null then i -> 'first' ->> 'stage' end, v_data, v_event, 1, v_seq, p_now,
            case when v_head.active_run is null then p_now end, i ->> 'traceparent') returning * into v_run;
    v_out := v_out || emit((i ->> 'accepted_id')::uuid, 'run.accepted', v_tenant, v_run_id, v_event, v_seq, p_now, v_run.traceparent, v_value::text, true);
    if (i ->> 'abandoned')::boolean then   -- asked for by somebody who publishes nothing: the next sweep takes it
        update outbox set created_at = '-infinity' where id in (select (o ->> 'id')::bigint from jsonb_array_elements(v_out) o);
    end if;
    if v_head.active_run is not null then
        update pipeline_heads set pending_run = v_run_id where tenant_id = v_tenant and pipeline = i ->> 'pipeline';
        return jsonb_build_object('result', 'pending', 'run_id', v_run_id, 'outbox', v_out);
    end if;
    update pipeline_heads set active_run = v_run_id where tenant_id = v_tenant and pipeline = i ->> 'pipeline';
    v_step := set_step_ready(v_run, i -> 'first', v_data, i -> 'first' ->> 'type', v_event, p_now, v_worker);
    return jsonb_build_object('result', 'run', 'run_id', v_run_id, 'outbox', v_out, 'step', case when v_step.worker is not null then leased(v_step, v_run) end);
end $$;

-- complete_job(item, now): a completion from outside meets the step that waits for it, or is kept until its job is known.
-- item: event_key, event_id, body, tenant, topic, partition, offset, engine, job_id, data, failed, next {stage of the job: next},
--       first, finish_id, worker
create function complete_job(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare
    v_tenant text := i ->> 'tenant'; v_job jobs; v_run runs; v_step steps; v_fate text := 'matched'; v_code text; v_result jsonb := '{"result": "recorded"}';
begin
    if not lock_tenant(v_tenant) then return jsonb_build_object('result', 'refused', 'code', 'unknown_tenant'); end if;
    perform 1 from inbox where event_key = (i ->> 'event_key')::uuid;
    if found then return jsonb_build_object('result', 'seen'); end if;
    insert into jobs (engine, job_id, tenant_id) values (i ->> 'engine', i ->> 'job_id', v_tenant) on conflict do nothing;
    select * into v_job from jobs where engine = i ->> 'engine' and job_id = i ->> 'job_id' and tenant_id = v_tenant for update;
    if v_job.run_id is null and exists (select 1 from jobs where engine = i ->> 'engine' and job_id = i ->> 'job_id' and run_id is not null) then
        delete from jobs where engine = v_job.engine and job_id = v_job.job_id and tenant_id = v_tenant;
        v_fate := 'set_aside'; v_code := 'foreign_tenant';
    elsif v_job.completed_at is not null then
        v_fate := 'set_aside'; v_code := case when v_job.completion = i -> 'data' then 'repeated' else 'already_completed' end;
    else
        update jobs set completion = i -> 'data', completion_id = (i ->> 'event_id')::uuid, completed_at = p_now, failed = (i ->> 'failed')::boolean
        where engine = v_job.engine and job_id = v_job.job_id and tenant_id = v_tenant;
        if v_job.run_id is null then
            v_fate := 'early';
        else
            select * into v_run from runs where run_id = v_job.run_id;
            select * into v_step from steps where run_id = v_job.run_id and stage = v_job.stage for update;
            if v_run.state not in ('running', 'cancelling') then v_fate := 'set_aside'; v_code := 'run_ended';
            elsif v_step.round <> v_job.round then v_fate := 'set_aside'; v_code := 'stale_round';
            elsif v_step.state <> 'waiting' then v_fate := 'set_aside'; v_code := 'not_waiting';
            else
                v_result := end_wait(v_run, v_step, i -> 'data', i ->> 'topic', (i ->> 'event_id')::uuid, (i ->> 'failed')::boolean,
                                     i -> 'next' -> v_step.stage, (i ->> 'finish_id')::uuid, i -> 'first', p_now, (i ->> 'worker')::uuid);
            end if;
        end if;
    end if;
    insert into inbox (event_key, tenant_id, topic, partition, "offset", event_id, body, run_id, fate, code, at)
    values ((i ->> 'event_key')::uuid, v_tenant, i ->> 'topic', (i ->> 'partition')::int, (i ->> 'offset')::bigint, (i ->> 'event_id')::uuid,
            decode(i ->> 'body', 'hex'), case when v_code = 'foreign_tenant' then null else v_job.run_id end, v_fate, v_code, p_now);
    return v_result || jsonb_strip_nulls(jsonb_build_object('fate', v_fate, 'code', v_code));
end $$;

-- end_wait(...): the job of a waiting step ended. A success is passed on; a failure goes to the executor, whose policy decides on the next round.
create function end_wait(p_run runs, p_step steps, p_data jsonb, p_type text, p_event uuid, p_failed boolean, p_next jsonb, p_finish uuid,
                         p_first jsonb, p_now timestamptz, p_worker uuid) returns jsonb language plpgsql as $$
declare v_seq bigint; v_out jsonb;
begin
    if p_failed then
        update steps set state = 'running', output = p_data, output_type = p_type, worker = p_worker, fence = fence + 1, due_at = p_now, waiting_for = null
        where run_id = p_step.run_id and stage = p_step.stage returning * into p_step;
        v_seq := note(p_run.tenant_id, p_run.run_id, 'step', jsonb_strip_nulls(jsonb_build_object('stage', p_step.stage, 'state', 'ready',
            'round', p_step.round, 'attempt', p_step.attempt, 'started_at', p_step.started_at, 'output_type', p_type)) || given('output', p_data),
            p_now, null, null, p_event);
        update runs set version = v_seq where run_id = p_run.run_id returning * into p_run;
        v_out := jsonb_build_array(emit(gen_random_uuid(), null, p_run.tenant_id, p_run.run_id, p_event, v_seq, p_now, p_run.traceparent, null, true));
        if p_worker is null then
            update steps set state = 'ready' where run_id = p_step.run_id and stage = p_step.stage;
            return jsonb_build_object('result', 'next', 'outbox', v_out);
        end if;
        return jsonb_build_object('result', 'next', 'outbox', v_out, 'step', leased(p_step, p_run));
    end if;
    update steps set fence = fence + 1 where run_id = p_step.run_id and stage = p_step.stage;
    return pass_on(p_run, p_step.stage, p_step.round, p_data || jsonb_build_object('run_id', p_run.run_id), p_type, p_event, false, null,
                   p_next, p_finish, p_first, p_now, p_worker);
end $$;

-- commit_step(item, now): the outcome of a step in hand. Refused as `lost` unless the step is still leased to this worker under this fence.
-- item: run_id, tenant, stage, worker, fence, outcome (done skipped waiting retry failed released), round, output, output_type, event_id, published
--       after (s), deadline (s), engine, job_id, cost (attempts), next_round, code, error, waiting_for, final, next, first, finish_id, effects
create function commit_step(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare
    v_run_id uuid := (i ->> 'run_id')::uuid; v_stage text := i ->> 'stage'; v_worker uuid := (i ->> 'worker')::uuid; v_outcome text := i ->> 'outcome';
    v_run runs; v_step steps; v_job jobs; v_seq bigint; v_out jsonb := '[]'; v_due timestamptz; v_next uuid := (i ->> 'next_worker')::uuid;
    v_kept text; v_until timestamptz;
begin
    insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, worker, sent_at)
    select e ->> 'key', v_run_id, i ->> 'tenant', v_stage, (i ->> 'round')::int, e ->> 'command', (e ->> 'status')::int,
           decode(e ->> 'request_sha256', 'hex'), decode(e ->> 'reply_sha256', 'hex'), e -> 'reply', v_worker, (e ->> 'sent_at')::timestamptz
    from jsonb_array_elements(i -> 'effects') e;
    perform lock_tenant(i ->> 'tenant');
    select * into v_step from steps where run_id = v_run_id and stage = v_stage for update;
    select * into v_run from runs where run_id = v_run_id;
    if v_step.worker is distinct from v_worker or v_step.fence <> (i ->> 'fence')::bigint or v_step.state not in ('running', 'waiting') then
        return jsonb_build_object('result', 'lost', 'run_state', v_run.state);
    end if;
    v_due := p_now + make_interval(secs => coalesce((i ->> 'after')::float8, 0));

    if v_outcome = 'released' then   -- a drain gives the step back untouched; the next worker sends the same key
        update steps set worker = null, state = case when state = 'running' then 'ready' else state end, due_at = v_due
        where run_id = v_run_id and stage = v_stage;
        return jsonb_build_object('result', 'released');
    end if;

    if v_outcome in ('done', 'skipped') then
        if i ->> 'job_id' is not null then   -- found by asking: the first terminal word on a job wins
            update jobs set completion = i -> 'output', completion_id = (i ->> 'event_id')::uuid, completed_at = p_now, failed = false
            where engine = i ->> 'engine' and job_id = i ->> 'job_id' and tenant_id = v_run.tenant_id and completed_at is null;
        end if;
        return pass_on(v_run, v_stage, v_step.round, i -> 'output', i ->> 'output_type', (i ->> 'event_id')::uuid, v_outcome = 'done',
                       case when v_outcome = 'skipped' then i end, i -> 'next', (i ->> 'finish_id')::uuid, i -> 'first', p_now, v_next);
    end if;

    if v_outcome = 'waiting' and i ->> 'job_id' is not null and v_step.state = 'running' then   -- a job was started: meet its completion
        insert into jobs (engine, job_id, tenant_id) values (i ->> 'engine', i ->> 'job_id', v_run.tenant_id) on conflict do nothing;
        update jobs set run_id = v_run_id, stage = v_stage, round = v_step.round
        where engine = i ->> 'engine' and job_id = i ->> 'job_id' and tenant_id = v_run.tenant_id returning * into v_job;
        with others as (   -- somebody else claimed to know how this job ended: it is not theirs
            delete from jobs where engine = v_job.engine and job_id = v_job.job_id and run_id is null returning tenant_id, completion_id
        ) update inbox x set fate = 'set_aside', code = 'foreign_tenant' from others o where x.tenant_id = o.tenant_id and x.event_id = o.completion_id;
    end if;

    if v_outcome = 'failed' or (v_run.state = 'cancelling' and v_outcome = 'retry' and not coalesce((i ->> 'settle')::boolean, false)) then
        v_kept := case when v_run.state = 'cancelling' then 'cancelled' else coalesce(i ->> 'final', 'failed') end;
        update steps set state = case when v_kept = 'cancelled' then 'cancelled' else 'failed' end, code = i ->> 'code', error = i ->> 'error', worker = null,
            waiting_for = null, finished_at = p_now where run_id = v_run_id and stage = v_stage returning * into v_step;
    elsif v_outcome = 'waiting' then
        v_until := coalesce(v_step.deadline, p_now + make_interval(secs => (i ->> 'deadline')::float8));
        update steps set state = 'waiting', worker = null, deadline = v_until, waiting_for = i ->> 'waiting_for', code = i ->> 'code', error = i ->> 'error',
            due_at = case when v_run.state = 'cancelling' then p_now when v_until > p_now then least(v_due, v_until) else v_due end,
            job = coalesce(i -> 'output', job), waiting_at = coalesce(waiting_at, p_now)
        where run_id = v_run_id and stage = v_stage returning * into v_step;
        if i -> 'output' is null then return jsonb_build_object('result', 'waiting'); end if;  -- one more look at the job: no news
    else   -- retry
        update steps set state = 'ready', worker = null, due_at = v_due, attempt = attempt + coalesce((i ->> 'cost')::int, 1), output = null, output_type = null,
            round = round + case when (i ->> 'next_round')::boolean then 1 else 0 end,
            takeovers = case when (i ->> 'next_round')::boolean then 0 else takeovers end, code = i ->> 'code', error = i ->> 'error',
            waiting_for = i ->> 'waiting_for', job = null, deadline = null, waiting_at = null
        where run_id = v_run_id and stage = v_stage returning * into v_step;
        delete from limit_slots where run_id = v_run_id and stage = v_stage;
        if i ->> 'waiting_for' is not null then return jsonb_build_object('result', 'retry'); end if;  -- an outage is no step of the run
    end if;
    v_seq := note(v_run.tenant_id, v_run_id, 'step', jsonb_strip_nulls(jsonb_build_object('stage', v_stage, 'state', v_step.state, 'round', v_step.round,
        'attempt', v_step.attempt, 'started_at', v_step.started_at, 'due_at', case when v_step.state = 'ready' then v_step.due_at end, 'deadline', v_step.deadline,
        'code', v_step.code, 'error', v_step.error, 'settle', case when v_step.state = 'ready' and v_run.state = 'cancelling' then true end))
        || given('job', v_step.job), p_now, case when v_outcome = 'waiting' then (i ->> 'event_id')::uuid end,
        case when v_outcome = 'waiting' then i ->> 'output_type' end, v_step.input_id);
    update runs set version = v_seq where run_id = v_run_id returning * into v_run;
    v_out := v_out || emit(coalesce((i ->> 'event_id')::uuid, gen_random_uuid()), case when v_outcome = 'waiting' then i ->> 'output_type' end, v_run.tenant_id,
        v_run_id, v_step.input_id, v_seq, p_now, v_run.traceparent, case when v_outcome = 'waiting' then (i -> 'output')::text end, true);
    if v_kept is not null then
        return jsonb_build_object('result', 'finished', 'outbox', v_out ||
            finish_run(v_run_id, v_kept, case when v_kept = 'cancelled' then 'cancelled' else i ->> 'code' end, i ->> 'error', (i ->> 'finish_id')::uuid, i -> 'first', p_now));
    elsif v_outcome = 'waiting' and v_job.completed_at is not null then   -- it was faster than we
        select * into v_run from runs where run_id = v_run_id;
        return (select w || jsonb_build_object('outbox', v_out || coalesce(w -> 'outbox', '[]'))
            from end_wait(v_run, v_step, v_job.completion, i ->> 'completion_type', v_job.completion_id,
                          v_job.failed, (i -> 'next') - 'hold', (i ->> 'finish_id')::uuid, i -> 'first', p_now, v_next) w);
    end if;
    return jsonb_build_object('result', v_outcome, 'outbox', v_out);
end $$;
