-- Index folders that nothing names: every try at an index writes to a folder of its own, and those of tries that were taken over stay behind.

-- One row: what the sweeper has done, and what it saw the last time.
create table sweeps (
    id          boolean primary key default true check (id),
    begun_at    timestamptz not null default '-infinity',
    ended_at    timestamptz,
    folders     bigint not null default 0,        -- deleted so far
    bytes       bigint not null default 0,
    waiting     integer not null default 0,       -- named by nothing, but too young yet
    unknown     integer not null default 0        -- of runs that this ledger does not know; these are left alone
);
insert into sweeps default values;

-- begin_sweep(now, every): whether it is time, and the caller's turn. Never while this ledger knows less than Kafka does.
create function begin_sweep(p_now timestamptz, p_every interval) returns boolean language sql as $$
    with mine as (
        update sweeps set begun_at = p_now where begun_at <= p_now - p_every and not exists (select 1 from reconciling) returning 1
    ) select exists (select 1 from mine)
$$;

-- lies_at(folder, path): whether a path names the folder, something in it, or what it is in.
create function lies_at(p_folder text, p_path text) returns boolean language sql immutable as $$
    select starts_with(rtrim(p_path, '/') || '/', p_folder || '/') or starts_with(p_folder || '/', rtrim(p_path, '/') || '/')
$$;

-- judge_folders(folders): what the ledger says of each `indices/{tenant}/{run}/{try}`. `named`: by an event, whatever became of it, or by a
-- version, be it live, put back, retired or refused; `open`: its run may still name it; `unknown`: not of a run of this ledger, or of one from before
-- the tenant's entries were refilled from the topics, which may have left out the one that names it; `orphan`.
create function judge_folders(p_folders text[]) returns table (folder text, fate text) language sql stable as $$
    select f, case
        when r.run_id is null then 'unknown'
        when r.finished_at is null then 'open'
        when exists (select 1 from versions v where v.tenant_id = r.tenant_id and lies_at(f, v.index_path))
          or exists (select 1 from steps s where s.run_id = r.run_id and lies_at(f, s.output ->> 'index_path'))
          or exists (select 1 from journal j where j.run_id = r.run_id and lies_at(f, j.data -> 'output' ->> 'index_path')) then 'named'
        when exists (select 1 from journal j where j.tenant_id = r.tenant_id and j.kind = 'refilled' and j.at >= r.requested_at) then 'unknown'
        else 'orphan' end
    from unnest(p_folders) f
    left join runs r on r.run_id = case when split_part(f, '/', 3) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then split_part(f, '/', 3)::uuid end
                     and r.tenant_id = split_part(f, '/', 2)
$$;

-- end_sweep(now, folders, bytes, waiting, unknown): add up what was done.
create function end_sweep(p_now timestamptz, p_folders bigint, p_bytes bigint, p_waiting integer, p_unknown integer) returns void language sql as $$
    update sweeps set ended_at = p_now, folders = folders + p_folders, bytes = bytes + p_bytes, waiting = p_waiting, unknown = p_unknown
$$;
