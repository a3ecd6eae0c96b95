-- Backfill: past due times of a schedule that never fired, made up for in a batch that can be paused. Its slots are slots like any other,
-- with the same event ids, so a due time that fired once does not fire again, whoever asks for it.

create table backfills (
    backfill_id uuid primary key,               -- of schedule, range and choice: asking twice makes no second one
    schedule_id uuid not null,
    schedule    text not null,                  -- its name
    pipeline    text not null,
    first_day   date not null,                  -- in the schedule's zone, like the last; both included
    last_day    date not null,
    chosen      jsonb not null,                 -- which tenants: {tenant}, or {labels, owner}; {}: every active one
    at_once     integer not null check (at_once > 0),
    state       text not null check (state in ('running', 'paused', 'cancelled', 'done')),
    changed_by  text not null,
    made_at     timestamptz not null,
    changed_at  timestamptz not null
);
create index backfills_running on backfills (made_at) where state = 'running';
create index slots_planned on slots (backfill_id, tenant_id, due) where state = 'planned';
create index slots_of_backfill on slots (backfill_id) where backfill_id is not null;
create index slots_backfilled on slots (run_id) where backfill_id is not null;

-- plan_backfill(backfill, dues, dry): a planned slot for each tenant and due time that never fired; how many, and how many fired before.
create function plan_backfill(p_backfill backfills, p_dues timestamptz[], p_dry boolean, out planned bigint, out before bigint) language plpgsql as $$
declare s schedules;
begin
    select * into s from schedules where schedule_id = p_backfill.schedule_id;
    with wanted as (
        select t.tenant_id, d.due, l.state from unnest(p_dues) d(due)
        cross join (select t.tenant_id from tenants t where p_backfill.chosen ? 'tenant' and t.tenant_id = p_backfill.chosen ->> 'tenant' and t.status = 'active'
                    union all select c from chosen_tenants(p_backfill.chosen, '', null) c where not p_backfill.chosen ? 'tenant') t
        left join slots l on l.schedule_id = s.schedule_id and l.tenant_id = t.tenant_id and l.due = d.due
        where t.tenant_id = s.tenant_id
           or s.tenant_id is null and not exists (select 1 from schedules o where o.pipeline = s.pipeline and o.tenant_id = t.tenant_id)
    ), made as (
        insert into slots as l (schedule_id, tenant_id, due, fire_at, state, backfill_id)
        select s.schedule_id, w.tenant_id, w.due, w.due, 'planned', p_backfill.backfill_id from wanted w where not p_dry and (w.state is null or w.state = 'skipped')
        on conflict (schedule_id, tenant_id, due) do update set state = 'planned', backfill_id = excluded.backfill_id, reason = null, fired_at = null
        where l.state = 'skipped'
        returning 1
    )
    select case when p_dry then count(*) filter (where w.state is null or w.state = 'skipped') else (select count(*) from made) end,
           count(*) filter (where w.state = 'fired') into planned, before from wanted w;
end $$;

-- feed_backfills(now): let the next slots of running backfills become due: at most `at_once` of a backfill under way, and of a tenant one at a time,
-- the oldest first, when none of its runs is open: they would merge. Quotas, limits and turns hold for them as for everybody. Gives how many.
create function feed_backfills(p_now timestamptz) returns bigint language plpgsql as $$
declare b backfills; v_room bigint; v_fed bigint := 0; v_n bigint;
begin
    for b in select * from backfills where state = 'running' order by made_at for update skip locked loop
        update slots s set state = 'skipped', reason = 'the tenant is ' || t.status, fired_at = p_now from tenants t
        where s.backfill_id = b.backfill_id and s.state = 'planned' and t.tenant_id = s.tenant_id and t.status <> 'active';
        v_room := b.at_once
            - (select count(*) from slots where backfill_id = b.backfill_id and state = 'due')
            - (select count(*) from runs r where r.state in ('pending', 'running', 'cancelling')
               and exists (select 1 from slots s where s.run_id = r.run_id and s.backfill_id = b.backfill_id));
        continue when v_room <= 0;
        with next as (
            select t.tenant_id, f.due from tenants t
            cross join lateral (select s.due from slots s where s.backfill_id = b.backfill_id and s.tenant_id = t.tenant_id and s.state = 'planned'
                                order by s.due limit 1) f
            where not exists (select 1 from pipeline_heads h where h.tenant_id = t.tenant_id and h.pipeline = b.pipeline and h.active_run is not null)
              and not exists (select 1 from slots o join backfills x using (backfill_id) where o.tenant_id = t.tenant_id and o.state = 'due' and x.pipeline = b.pipeline)
              and not is_paused(t.tenant_id, b.pipeline)
        ), picked as (
            select * from next order by due, tenant_id limit v_room
        )
        update slots s set state = 'due', fire_at = p_now from picked n
        where s.schedule_id = b.schedule_id and s.tenant_id = n.tenant_id and s.due = n.due and s.state = 'planned';
        get diagnostics v_n = row_count;
        v_fed := v_fed + v_n;
        if v_room = b.at_once and v_n = 0 and not exists (select 1 from slots where backfill_id = b.backfill_id and state in ('planned', 'due', 'held')) then
            update backfills set state = 'done', changed_at = p_now where backfill_id = b.backfill_id;
        end if;
    end loop;
    return v_fed;
end $$;

-- set_backfill(backfill, state, by, now): pause, resume or cancel it. Runs that it began go on; what was due goes back, or is skipped.
create function set_backfill(p_id uuid, p_state text, p_by text, p_now timestamptz) returns jsonb language plpgsql as $$
declare b backfills;
begin
    select * into b from backfills where backfill_id = p_id for update;
    if not found then return jsonb_build_object('result', 'refused', 'code', 'unknown_backfill'); end if;
    if b.state = p_state then return jsonb_build_object('result', 'there'); end if;
    if b.state in ('done', 'cancelled') then return jsonb_build_object('result', 'refused', 'code', 'backfill_over', 'state', b.state); end if;
    update backfills set state = p_state, changed_by = p_by, changed_at = p_now where backfill_id = p_id;
    if p_state = 'paused' then
        update slots set state = 'planned' where backfill_id = p_id and state = 'due';
    elsif p_state = 'cancelled' then
        update slots set state = 'skipped', reason = 'the backfill was cancelled by ' || p_by, fired_at = p_now
        where backfill_id = p_id and state in ('planned', 'due', 'held');
    end if;
    return jsonb_build_object('result', p_state);
end $$;
