-- What did not happen: tenants without a good run, without a tick, with a run that takes too long. And who looks for it.

-- Looks that one worker at a time takes now and then; on the real clock.
create table looks (
    name        text primary key,
    at          timestamptz not null
);

-- may_look(name, every): whether nobody has looked within this time; then the caller does, and the others do not.
create function may_look(p_name text, p_every interval) returns boolean language sql as $$
    insert into looks as l (name, at) values (p_name, clock_timestamp())
    on conflict (name) do update set at = excluded.at where l.at <= excluded.at - p_every
    returning true
$$;

create index slots_of_tenant on slots (tenant_id, due desc);

-- bound(tenant's own settings, name, default in seconds or null): how long something may be away; null: for ever.
create function bound(p_own jsonb, p_name text, p_default float8) returns interval language sql immutable as $$
    select case jsonb_typeof(p_own -> 'absence' -> p_name)
        when 'number' then make_interval(secs => (p_own -> 'absence' ->> p_name)::float8)
        when 'string' then case p_own -> 'absence' ->> p_name when 'off' then null else (p_own -> 'absence' ->> p_name)::interval end
        else make_interval(secs => p_default) end
$$;

-- covers(schedule, tenant): whether it is the schedule's turn to ask for the tenant: its own, paused and over ones too, replace those for everybody.
create function covers(s schedules, p_tenant text) returns boolean language sql stable as $$
    select s.tenant_id = p_tenant
        or s.tenant_id is null and not exists (select 1 from schedules o where o.pipeline = s.pipeline and o.tenant_id = p_tenant)
$$;

-- absences(now, rules): what is late, or has an incident that is open, a row for each check of a tenant; set-based over all tenants.
-- rules: [{check, name, pipeline, within, kind}] with kind good (its last run that succeeded), any (its last run) or open (its oldest open run).
-- A rule without a pipeline is about the runs of all. Only active tenants are waited for, and nothing whose pause is in force;
-- the time counts from when both began.
create function absences(p_now timestamptz, p_rules jsonb)
returns table (tenant_id text, check_name text, late boolean, since timestamptz, allowed interval, last_run uuid, last_state text, last_code text, expected text,
               id uuid, state text, severity text, changed_at timestamptz, resolved_at timestamptz, calm integer, flaps integer) language sql stable as $$
    with rules as (
        select r.*, (select max(p.ended_at) from pauses p where p.tenant_id is null and p.pipeline = r.pipeline) as resumed
        from jsonb_to_recordset(p_rules) as r("check" text, name text, pipeline text, within float8, kind text)
    ), resumed as materialized (   -- once for all tenants: pauses are kept for ever, and may be as many as these
        select p.tenant_id, r."check", max(p.ended_at) as at
        from pauses p join rules r on p.pipeline is null or p.pipeline = r.pipeline where p.tenant_id is not null group by p.tenant_id, r."check"
    ), waited as materialized (
        select t.tenant_id, r."check", r.kind, r.pipeline, b.allowed, greatest(t.active_since, r.resumed, p.at) as since
        from tenants t cross join rules r left join resumed p on p.tenant_id = t.tenant_id and p."check" = r."check"
        cross join lateral (select bound(t.settings, r.name, r.within) as allowed) b
        where t.status = 'active' and b.allowed is not null and not is_paused(t.tenant_id, r.pipeline)
    ), ended as materialized (   -- when a pipeline's pauses ended, the tenant's own and everybody's
        select p.tenant_id, p.pipeline, max(p.ended_at) as at from pauses p group by p.tenant_id, p.pipeline
    ), oldest as materialized (   -- the open ones are few, and found by an index of their own
        select distinct on (r.tenant_id) r.tenant_id, r.run_id, r.pipeline, greatest(r.requested_at, own.at, every.at) as at, r.state, r.code
        from runs r left join ended own on own.tenant_id = r.tenant_id and own.pipeline = r.pipeline
        left join ended every on every.tenant_id is null and every.pipeline = r.pipeline
        where r.state in ('pending', 'running', 'cancelling') and not is_paused(r.tenant_id, r.pipeline) order by r.tenant_id, 4
    ), judged as (
        select w.tenant_id, w."check", w.pipeline, w.allowed, greatest(w.since, found.at) as since, found.run_id,
               greatest(w.since, found.at) < p_now - w.allowed as late
        from waited w left join lateral (
            select r.run_id, case w.kind when 'good' then r.finished_at else r.requested_at end as at
            from runs r where r.tenant_id = w.tenant_id and r.pipeline = w.pipeline
              and (w.kind = 'any' or r.state in ('succeeded', 'succeeded_with_warnings'))
            order by r.requested_at desc limit 1
        ) found on true
        where w.kind <> 'open'
        union all
        select w.tenant_id, w."check", o.pipeline, w.allowed, greatest(w.since, o.at), o.run_id, greatest(w.since, o.at) < p_now - w.allowed
        from waited w join oldest o using (tenant_id) where w.kind = 'open'
    ), open as (
        select i.tenant_id, i.check_name from incidents i where i.state = 'open' and i.check_name in (select "check" from rules)
    )
    select k.tenant_id, k."check", coalesce(j.late, false), j.since, j.allowed, l.run_id, l.state, l.code,
           (select string_agg(s.name || case when s.paused then ' (paused)' when s.next_due is null then ' (over)' else '' end, ', ' order by s.name)
            from schedules s where s.pipeline = j.pipeline and covers(s, k.tenant_id)),
           i.id, i.state, i.severity, i.changed_at, i.resolved_at, i.calm, i.flaps
    from (select j.tenant_id, j."check" from judged j where j.late union select o.tenant_id, o.check_name from open o) k
    left join judged j on j.tenant_id = k.tenant_id and j."check" = k."check"
    left join lateral (select * from incidents n where n.tenant_id = k.tenant_id and n.check_name = k."check" order by n.opened_at desc, n.id limit 1) i on true
    left join lateral (select case when k."check" in (select u."check" from rules u where u.kind = 'open') then coalesce(j.run_id, (i.details ->> 'last_run')::uuid)
        else (select n.run_id from runs n where n.tenant_id = k.tenant_id and n.pipeline = j.pipeline order by n.requested_at desc limit 1) end as run_id) shown on true
    left join runs l on l.run_id = shown.run_id
    order by k.tenant_id, k."check"
$$;
