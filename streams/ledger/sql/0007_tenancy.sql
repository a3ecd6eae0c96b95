-- What operators say about schedules, tenants and pipelines, with who said it and why.

-- Every change of a schedule, its end included: who did it, and what it was from then on.
create table schedule_changes (
    schedule_id uuid not null,
    revision    integer not null,
    name        text not null,
    what        text not null check (what in ('created', 'changed', 'paused', 'resumed', 'deleted')),
    rule        jsonb not null,
    changed_by  text not null,
    changed_at  timestamptz not null,
    primary key (schedule_id, revision)
);
create index schedule_changes_name on schedule_changes (name, changed_at desc);

-- note_schedule(schedule, what, by, now): the schedule's next revision, and its row in the history.
create function note_schedule(p_schedule uuid, p_what text, p_by text, p_now timestamptz) returns integer language plpgsql as $$
declare s schedules;
begin
    update schedules set revision = revision + (p_what <> 'created')::int, changed_by = p_by, changed_at = p_now
    where schedule_id = p_schedule returning * into s;
    insert into schedule_changes (schedule_id, revision, name, what, rule, changed_by, changed_at)
    values (s.schedule_id, s.revision, s.name, p_what, to_jsonb(s) - '{schedule_id,revision,name,changed_by,changed_at,next_due}'::text[], p_by, p_now);
    return s.revision;
end $$;

-- default_schedule(name, pipeline, cron, now): made if there is none of this name, paused.
create function default_schedule(p_name text, p_pipeline text, p_cron text, p_now timestamptz) returns boolean language plpgsql as $$
declare v_id uuid;
begin
    insert into schedules (name, pipeline, cron) values (p_name, p_pipeline, p_cron) on conflict (name) do nothing returning schedule_id into v_id;
    if v_id is null then return false; end if;
    perform note_schedule(v_id, 'created', 'init', p_now);
    return true;
end $$;

-- drop_schedule(schedule, by, now): it fires no more; slots that were due are skipped, all slots and the history stay.
create function drop_schedule(p_schedule uuid, p_by text, p_now timestamptz) returns void language plpgsql as $$
begin
    perform note_schedule(p_schedule, 'deleted', p_by, p_now);
    update slots set state = 'skipped', reason = 'the schedule was deleted', fired_at = p_now where schedule_id = p_schedule and state in ('due', 'held');
    delete from schedules where schedule_id = p_schedule;
end $$;
