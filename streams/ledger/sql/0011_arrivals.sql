-- Data that arrives: what the last look at a tenant's files found, and why it did or did not ask for a training.

create table arrivals (
    tenant_id   text primary key references tenants,
    fingerprint text not null,                -- of the files as the last look found them
    files       integer not null,
    bytes       bigint not null,
    new_bytes   bigint not null,              -- in files that the newest training did not see
    known       jsonb not null,               -- the files that it saw: short digests of key, size and etag
    asked       text,                         -- the fingerprint for which a training was last asked for
    code        text not null,
    reason      text not null,
    looked_at   timestamptz not null
) with (fillfactor = 70);

-- One row whenever the answer became another one.
create table arrival_decisions (
    tenant_id   text not null references tenants,
    at          timestamptz not null,
    code        text not null,
    reason      text not null,
    run_id      uuid,
    primary key (tenant_id, at)
);

-- arrivals_wanted(now): every tenant that trains when data arrives, with all that the decision is made from but the files it knows, which may be many.
create function arrivals_wanted(p_now timestamptz)
returns table (tenant_id text, own jsonb, fingerprint text, asked text, code text, newest_run uuid, requested_at timestamptz, open boolean,
               seen text, today bigint, paused boolean) language sql stable as $$
    select t.tenant_id, t.settings -> 'arrivals', a.fingerprint, a.asked, a.code, r.run_id, r.requested_at, r.finished_at is null and r.run_id is not null,
           (select s.output ->> 'fingerprint' from runs v join steps s on s.run_id = v.run_id
            where v.tenant_id = t.tenant_id and v.pipeline = 'training' and s.output ? 'fingerprint' order by v.requested_at desc limit 1),
           (select count(*) from runs v join causes c on c.run_id = v.run_id
            where v.tenant_id = t.tenant_id and v.pipeline = 'training' and v.requested_at > p_now - interval '1 day' and c.data ->> 'request_key' like 'arrival:%'),
           is_paused(t.tenant_id, 'training')
    from tenants t
    left join arrivals a on a.tenant_id = t.tenant_id
    left join lateral (select * from runs n where n.tenant_id = t.tenant_id and n.pipeline = 'training' order by n.requested_at desc limit 1) r on true
    where t.status = 'active' and t.settings -> 'arrivals' ->> 'train' = 'true'
    order by t.tenant_id
$$;

-- note_arrival(look, now): what a look found and what followed; a row of the history when the answer became another one.
create function note_arrival(i jsonb, p_now timestamptz) returns void language plpgsql as $$
declare v_before text;
begin
    select code into v_before from arrivals where tenant_id = i ->> 'tenant_id';
    insert into arrivals (tenant_id, fingerprint, files, bytes, new_bytes, known, asked, code, reason, looked_at)
    values (i ->> 'tenant_id', i ->> 'fingerprint', (i ->> 'files')::int, (i ->> 'bytes')::bigint, (i ->> 'new_bytes')::bigint, i -> 'known', i ->> 'asked',
            i ->> 'code', i ->> 'reason', p_now)
    on conflict (tenant_id) do update set fingerprint = excluded.fingerprint, files = excluded.files, bytes = excluded.bytes, new_bytes = excluded.new_bytes,
        known = excluded.known, asked = excluded.asked, code = excluded.code, reason = excluded.reason, looked_at = excluded.looked_at;
    if v_before is distinct from i ->> 'code' or i ->> 'code' = 'asked' then
        insert into arrival_decisions (tenant_id, at, code, reason, run_id)
        values (i ->> 'tenant_id', p_now, i ->> 'code', i ->> 'reason', (i ->> 'run_id')::uuid) on conflict do nothing;
    end if;
end $$;
