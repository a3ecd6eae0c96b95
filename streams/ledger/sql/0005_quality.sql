-- Data quality and incidents: verdicts a tick, the tenant's standing verdict, baselines, allowances; incidents with their transitions,
-- which are also the outbox of alerts; and the queue of ended runs that the warehouse has not seen yet.
-- Own truth, never dropped by a rebuild: allowances, baselines, incidents and their transitions.

-- The tenant's newest verdict, which the gate before training asks. `profile`: counters from which the next tick may count on.
create table quality_states (
    tenant_id   text primary key,
    watched     boolean not null,
    verdict     text check (verdict in ('pass', 'warn', 'fail', 'error')),
    checks      jsonb not null default '[]',
    profile     jsonb not null default '{}',
    run_id      uuid not null,
    at          timestamptz not null
) with (fillfactor = 70);

-- One row a tick, dropped a month at a time. `decisions`: what was decided about each check, and why.
create table quality_verdicts (
    tenant_id   text not null,
    at          timestamptz not null,
    run_id      uuid not null,
    verdict     text not null,
    checks      jsonb not null,
    decisions   jsonb not null,
    primary key (tenant_id, at, run_id)
) partition by range (at);
create table quality_verdicts_other partition of quality_verdicts default;

-- Which verdict of which run was recorded: a measurement that is worked on twice is recorded once; one that was retried measures at another
-- moment. Dropped with the verdicts.
create table quality_recorded (
    run_id      uuid not null,
    measured_at timestamptz not null,
    tenant_id   text not null,
    at          timestamptz not null,
    decided     jsonb not null,
    primary key (run_id, measured_at)
);
create index quality_recorded_at on quality_recorded (at);

-- What is usual for a tenant at an hour of the week: one sample a week, the newest of them.
create table quality_baselines (
    tenant_id   text not null,
    metric      text not null,
    hour        smallint not null check (hour between 0 and 167),
    samples     jsonb not null default '{}',     -- week (Monday) -> value
    primary key (tenant_id, metric, hour)
) with (fillfactor = 70);

-- Training in spite of a verdict, until it expires or is withdrawn.
create table quality_allowances (
    id          bigint generated always as identity primary key,
    tenant_id   text not null,
    reason      text not null,
    given_by    text not null,
    given_at    timestamptz not null,
    until       timestamptz not null
);
create index quality_allowances_tenant on quality_allowances (tenant_id, until desc);

-- Something is wrong, from its first sign until it is well again; one open incident for each check of a tenant.
create table incidents (
    id          uuid primary key,
    tenant_id   text,                             -- null: about the platform
    check_name  text not null,
    state       text not null check (state in ('open', 'resolved')),
    severity    text not null check (severity in ('low', 'medium', 'high', 'critical')),
    title       text not null,
    details     jsonb not null,
    opened_at   timestamptz not null,
    changed_at  timestamptz not null,             -- when somebody was last told
    resolved_at timestamptz,
    transitions integer not null default 0,
    calm        integer not null default 0,       -- healthy ticks in a row while it is open
    flaps       integer not null default 0        -- how often it came back soon after it was resolved
) with (fillfactor = 70);
create unique index incidents_open on incidents (tenant_id, check_name) nulls not distinct where state = 'open';
create index incidents_tenant on incidents (tenant_id, opened_at desc);
create index incidents_newest on incidents (opened_at desc);

-- Each change of an incident that somebody is told of: the outbox of alerts. Delivered once under the key alert:{incident}:{number}.
create table incident_transitions (
    incident_id  uuid not null references incidents,
    number       integer not null,
    kind         text not null,                   -- opened reopened worse reminder resolved
    severity     text not null,
    title        text not null,
    message      text not null,
    tenant_id    text,
    details      jsonb not null,
    at           timestamptz not null,
    due_at       timestamptz not null,
    attempts     integer not null default 0,
    logged_at    timestamptz,                     -- said in the log because monitoring was away
    delivered_at timestamptz,
    code         text,                            -- why it is not delivered yet, or never will be
    primary key (incident_id, number)
) with (fillfactor = 70);
create index incident_transitions_due on incident_transitions (due_at) where delivered_at is null;

-- Runs that ended and that the warehouse's model_training_runs does not show yet.
create table projection_queue (
    run_id      uuid primary key,
    at          timestamptz not null default clock_timestamp()
);
create function queue_projection() returns trigger language plpgsql as $$
begin
    insert into projection_queue (run_id) values (new.run_id) on conflict do nothing;
    return null;
end $$;
create trigger runs_ended after update of finished_at on runs
    for each row when (new.finished_at is not null and new.pipeline = 'training') execute function queue_projection();

-- quality_month(day): the partition of that month, made if it is missing; gives its name. The default partition takes what comes before.
create function quality_month(p_day timestamptz) returns text language plpgsql as $$
declare v_from date := date_trunc('month', p_day at time zone 'UTC')::date; v_name text := 'quality_verdicts_' || to_char(p_day at time zone 'UTC', 'YYYYMM');
begin
    if to_regclass(v_name) is null then
        begin
            execute format('create table %I partition of quality_verdicts for values from (%L) to (%L)', v_name,
                           v_from::timestamp at time zone 'UTC', (v_from + interval '1 month') at time zone 'UTC');
        exception when duplicate_table or check_violation then null;   -- another worker was first, or rows of this month lie in the default
        end;
    end if;
    return v_name;
end $$;

-- quality_forget(before): drop verdicts, the marks of their runs and alerts of resolved incidents that are older.
create function quality_forget(p_before timestamptz) returns void language plpgsql as $$
declare v_name text;
begin
    for v_name in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'quality_verdicts'::regclass and c.relname ~ '^quality_verdicts_[0-9]{6}$'
          and to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' <= p_before at time zone 'UTC'
    loop
        execute format('drop table %I', v_name);
    end loop;
    delete from quality_verdicts_other where at < p_before;
    delete from quality_recorded where at < p_before;
end $$;

create index journal_told on journal ((data ->> 'run_id')) where kind = 'incident';

-- incident_changed(item, now): tell of an incident's change: its transition for monitoring, its event for Kafka, its entry in the tenant's
-- journal; gives the transition's number. The tenant's owner goes along, for whoever routes it. Under the tenant's lock. item: incident, tenant, kind, severity, title, message, details, event_id, run_id
create function incident_changed(i jsonb, p_now timestamptz) returns jsonb language plpgsql as $$
declare v_number integer; v_seq bigint; v_topic text; v_value jsonb; v_event uuid := (i ->> 'event_id')::uuid; v_tenant text := i ->> 'tenant';
        v_details jsonb := (i -> 'details') || given('owner', (select to_jsonb(owner) from tenants where tenant_id = i ->> 'tenant'));
begin
    update incidents set transitions = transitions + 1, changed_at = p_now where id = (i ->> 'incident')::uuid returning transitions into v_number;
    insert into incident_transitions (incident_id, number, kind, severity, title, message, tenant_id, details, at, due_at)
    values ((i ->> 'incident')::uuid, v_number, i ->> 'kind', i ->> 'severity', i ->> 'title', i ->> 'message', v_tenant, v_details, p_now, p_now);
    v_topic := case when i ->> 'kind' = 'resolved' then 'alert.resolved' else 'alert.raised' end;
    v_value := jsonb_build_object('tenant_id', v_tenant, 'run_id', i ->> 'run_id', 'incident', i ->> 'incident', 'severity', i ->> 'severity',
                                  'title', i ->> 'title', 'details', v_details || jsonb_build_object('kind', i ->> 'kind', 'transition', v_number));
    v_seq := note(v_tenant, null, 'incident', v_value || jsonb_build_object('kind', i ->> 'kind'), p_now, v_event, v_topic);
    return emit(v_event, v_topic, v_tenant, (i ->> 'run_id')::uuid, null, v_seq, p_now, null, v_value::text, null);
end $$;
