-- Schedules as rows, slots as rows: a schedule's due time becomes one slot a tenant, a slot becomes one request, each once.

create table schedules (
    schedule_id uuid primary key default gen_random_uuid(),
    name        text not null unique check (name ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
    pipeline    text not null,
    tenant_id   text references tenants,          -- null: every active tenant that has no schedule of its own for the pipeline
    cron        text not null,
    zone        text not null default 'UTC',
    jitter      interval not null default '0',    -- tenants are spread over this much after the due time, each always at the same place
    missed      text not null default 'latest' check (missed in ('skip', 'latest', 'all')),
    catch_up    interval not null default '1 day',-- due times older than this are not made up for
    overlap     text not null default 'merge' check (overlap in ('merge', 'skip', 'queue')),
    starts_at   timestamptz,
    ends_at     timestamptz,
    paused      boolean not null default true,
    request     jsonb not null default '{}',      -- what the request says beside tenant and slot
    next_due    timestamptz,
    revision    integer not null default 1,
    changed_by  text not null default 'init',
    changed_at  timestamptz not null default clock_timestamp()
);
create index schedules_due on schedules (next_due) where not paused;
create unique index schedules_own on schedules (pipeline, tenant_id, name) where tenant_id is not null;

create table slots (
    schedule_id uuid not null,
    tenant_id   text not null,
    due         timestamptz not null,
    fire_at     timestamptz not null,
    state       text not null default 'due' check (state in ('planned', 'due', 'held', 'fired', 'skipped')),   -- planned: of a backfill; held: until a pause ends
    reason      text,
    run_id      uuid,
    fired_at    timestamptz,
    backfill_id uuid,
    primary key (schedule_id, due, tenant_id)   -- in this order: a schedule's newest slots are read without the others, a crowd's lie side by side
);
create index slots_due on slots (fire_at) where state = 'due';

-- place(tenant): where in a jitter window a tenant always fires, 0 to 1 (the first 24 bits of its md5).
create function place(p_tenant text) returns float8 language sql immutable as $$
    select ('x' || substr(md5(p_tenant), 1, 6))::bit(24)::int / 16777216.0
$$;

-- due_schedules(now, most): schedules whose time has come, locked until the caller has moved them on; other workers pass them over.
create function due_schedules(p_now timestamptz, p_most integer) returns setof schedules language sql as $$
    select * from schedules where not paused and next_due <= p_now order by next_due limit p_most for update skip locked
$$;

-- make_slots(schedule, dues, next due): one slot a tenant and due time, and the schedule moved on, in the caller's transaction.
create function make_slots(p_schedule uuid, p_dues timestamptz[], p_next timestamptz) returns bigint language plpgsql as $$
declare s schedules; v_made bigint;
begin
    select * into s from schedules where schedule_id = p_schedule;
    insert into slots (schedule_id, tenant_id, due, fire_at)
    select p_schedule, t.tenant_id, due, case when s.jitter = '0' then due else due + s.jitter * place(t.tenant_id) end
    from unnest(p_dues) due, tenants t
    where t.status = 'active'
      and (t.tenant_id = s.tenant_id
           or s.tenant_id is null and not exists (select 1 from schedules o where o.pipeline = s.pipeline and o.tenant_id = t.tenant_id))
    on conflict do nothing;
    get diagnostics v_made = row_count;
    update schedules set next_due = p_next where schedule_id = p_schedule;
    return v_made;
end $$;
