-- A full ledger for `scripts/bench growth`: one run that the runtime really did, copied set-based in all tables that a run writes, into all their indexes.
-- A copy has a run id, event ids and times of its own; texts and JSON are those of the run that is copied ($1 everywhere but in `plan`).

-- table(): which copy belongs to whom, while the others are filled
create unlogged table bench_copies (n integer, tenant_id text, run_id uuid, base bigint, earlier interval);

-- plan($1 runs, $2 entries in the journal of each): spread over the tenants that are there, five hours from one of a tenant's runs to the next
insert into bench_copies
select g, h.tenant_id, md5('run ' || g)::uuid, h.seq + 1 + g / h.tenants * $2::int, (1 + g / h.tenants) * interval '5 hours'
from generate_series(0, $1::int - 1) g
join (select tenant_id, seq, row_number() over (order by tenant_id) - 1 as place, count(*) over () as tenants from tenant_heads) h on h.place = g % h.tenants;

-- journal($1 run): its entries, numbered on from the tenant's last one
insert into journal
select r.* from bench_copies c cross join (select j, j.seq - min(j.seq) over () as place from journal j where run_id = $1::uuid) t,
    lateral jsonb_populate_record(t.j, jsonb_build_object('tenant_id', c.tenant_id, 'seq', c.base + t.place, 'run_id', c.run_id, 'at', (t.j).at - c.earlier,
        'event_id', md5(c.n || (t.j).event_id::text)::uuid, 'causation', md5(c.n || (t.j).causation::text)::uuid)) r;

-- steps($1 run): one a stage, all done
insert into steps
select r.* from bench_copies c cross join steps t,
    lateral jsonb_populate_record(t, jsonb_build_object('tenant_id', c.tenant_id, 'run_id', c.run_id, 'input_id', md5(c.n || t.input_id::text)::uuid,
        'due_at', t.due_at - c.earlier, 'ready_at', t.ready_at - c.earlier, 'started_at', t.started_at - c.earlier, 'finished_at', t.finished_at - c.earlier)) r
where t.run_id = $1::uuid;

-- runs($1 run, $2 entries in its journal): the run itself
insert into runs
select r.* from bench_copies c cross join runs t,
    lateral jsonb_populate_record(t, jsonb_build_object('tenant_id', c.tenant_id, 'run_id', c.run_id, 'request_id', md5(c.n || t.request_id::text)::uuid,
        'version', c.base + $2::int - 1, 'requested_at', t.requested_at - c.earlier, 'started_at', t.started_at - c.earlier,
        'finished_at', t.finished_at - c.earlier)) r
where t.run_id = $1::uuid;

-- causes($1 run): the request
insert into causes
select r.* from bench_copies c cross join causes t,
    lateral jsonb_populate_record(t, jsonb_build_object('run_id', c.run_id, 'event_id', md5(c.n || t.event_id::text)::uuid, 'at', t.at - c.earlier)) r
where t.run_id = $1::uuid;

-- inbox($1 run): by what the request is known again
insert into inbox
select r.* from bench_copies c cross join inbox t,
    lateral jsonb_populate_record(t, jsonb_build_object('event_key', md5(c.n || t.event_key::text)::uuid, 'tenant_id', c.tenant_id, 'run_id', c.run_id,
        'event_id', md5(c.n || t.event_id::text)::uuid, 'at', t.at - c.earlier)) r
where t.run_id = $1::uuid;

-- effects($1 run): the answers to its calls
insert into effects (key, run_id, tenant_id, stage, round, command, status, request_sha256, reply_sha256, reply, worker, sent_at, at)
select c.run_id || ':' || t.stage || ':' || t.round, c.run_id, c.tenant_id, t.stage, t.round, t.command, t.status, t.request_sha256, t.reply_sha256, t.reply, t.worker,
    t.sent_at - c.earlier, t.at - c.earlier
from bench_copies c cross join effects t where t.run_id = $1::uuid;

-- heads(): every tenant's journal number is that of its last entry
update tenant_heads h set seq = j.seq from (select tenant_id, max(seq) as seq from journal group by tenant_id) j where j.tenant_id = h.tenant_id;

-- gone(): the plan is not needed any more
drop table bench_copies;
