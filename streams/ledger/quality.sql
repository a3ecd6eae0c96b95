-- What the quality pipeline asks of the ledger and tells it. `tests` and pages read the same rows through `streams/quality.py`.

-- standings($1 tenants, $2 hour of the week): settings, what is known of the last tick, and the hour's samples of each tenant
select t.tenant_id, t.settings, s.profile, coalesce(s.watched, true) as watched, coalesce(s.checks @> '[{"code": "measure_timeout"}]', false) as slow,
       coalesce((select jsonb_object_agg(b.metric, b.samples) from quality_baselines b where b.tenant_id = t.tenant_id and b.hour = $2), '{}') as samples
from tenants t left join quality_states s using (tenant_id) where t.tenant_id = any ($1);

-- attempts($1 runs, $2 stage): at which attempt the stage of each run is
select run_id, attempt from steps where run_id = any ($1) and stage = $2;

-- last_verdict($1 tenant, $2 now): the newest verdict, if there is one, the tenant's own gate and the allowance that holds
select coalesce(s.watched, false) as watched, s.verdict, coalesce(s.checks, '[]') as checks, s.run_id, s.at, t.settings -> 'quality' ->> 'gate' as gate,
       (select a.reason from quality_allowances a where a.tenant_id = $1 and a.until > $2 order by a.until desc limit 1) as allowed
from tenants t left join quality_states s using (tenant_id) where t.tenant_id = $1;

-- recorded($1 runs): what was decided about these runs' verdicts, as far as they were recorded, with the moment at which each measured
select run_id, measured_at, decided from quality_recorded where run_id = any ($1);

-- idle($1 tenants): those of them that are suspended or deleted
select tenant_id from tenants where tenant_id = any ($1) and status <> 'active';

-- in_vain($1 tenant, $2 training run): how many of the tenant's quality runs ended without a verdict since the training was asked for
select count(*)::int from runs q join runs t on t.run_id = $2
where q.tenant_id = $1 and q.pipeline = 'quality' and q.finished_at >= t.requested_at
  and not exists (select 1 from quality_recorded r where r.run_id = q.run_id);

-- incidents($1 tenants): each check's newest incident
select distinct on (tenant_id, check_name) tenant_id, check_name, id, state, severity, changed_at, resolved_at, calm, flaps
from incidents where tenant_id = any ($1) order by tenant_id, check_name, opened_at desc, id;

-- put_incident($1 id, $2 tenant, $3 check, $4 open, $5 severity, $6 title, $7 details, $8 now, $9 calm, $10 flaps): an incident as it is from now on
insert into incidents (id, tenant_id, check_name, state, severity, title, details, opened_at, changed_at, resolved_at, calm, flaps)
values ($1, $2, $3, case when $4 then 'open' else 'resolved' end, $5, $6, $7, $8::timestamptz, $8, case when $4 then null else $8 end, $9, $10)
on conflict (id) do update set state = excluded.state, severity = excluded.severity, calm = excluded.calm, flaps = excluded.flaps,
    resolved_at = excluded.resolved_at, title = coalesce(nullif(excluded.title, ''), incidents.title),
    details = case when excluded.title = '' then incidents.details else excluded.details end;

-- transitions($1 incident): how many changes were told
select transitions from incidents where id = $1;

-- keep($1 runs, $2 tenants, $3 watched, $4 verdicts, $5 at, $6 bodies {checks, profile, decided}, $7 now): each verdict in the history and as the
-- tenant's newest (an older one changes nothing there), with what it teaches: this week's samples, of which the newest twelve weeks are kept
with given as (
    select * from unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::timestamptz[], $6::jsonb[]) g (run_id, tenant_id, watched, verdict, at, body)
), marked as (   -- what was recorded before stays as it is
    insert into quality_recorded (run_id, measured_at, tenant_id, at, decided) select run_id, at, tenant_id, $7, body -> 'decided' from given
    on conflict do nothing returning run_id, measured_at
), new as materialized (
    select g.* from given g join marked m on (m.run_id, m.measured_at) = (g.run_id, g.at)
), told as (
    insert into quality_verdicts (tenant_id, at, run_id, verdict, checks, decisions)
    select tenant_id, at, run_id, verdict, body -> 'checks', body -> 'decided' -> 'decisions' from new where watched on conflict do nothing
), standing as (
    insert into quality_states as s (tenant_id, watched, verdict, checks, profile, run_id, at)
    select tenant_id, watched, verdict, body -> 'checks', body -> 'profile', run_id, at from new order by tenant_id
    on conflict (tenant_id) do update set watched = excluded.watched, verdict = excluded.verdict, checks = excluded.checks, profile = excluded.profile,
        run_id = excluded.run_id, at = excluded.at where s.at <= excluded.at
)
insert into quality_baselines as b (tenant_id, metric, hour, samples)
select n.tenant_id, m.key, (n.body -> 'profile' ->> 'hour')::smallint, jsonb_build_object(n.body -> 'profile' ->> 'week', m.value)
from new n, jsonb_each(n.body -> 'profile' -> 'learn') m order by n.tenant_id, m.key
on conflict (tenant_id, metric, hour) do update set samples =
    (select jsonb_object_agg(key, value) from (select * from jsonb_each(b.samples || excluded.samples) order by key desc limit 12) newest);

-- wake($1 tenants, $2 now): steps that wait for these verdicts are due
update steps set due_at = $2 where tenant_id = any ($1) and state = 'ready' and worker is null and waiting_for = 'quality' and due_at > $2;

-- blocked($1 tenants): the newest training run of each, where the gate ended it
select r.tenant_id, r.run_id, r.request
from unnest($1::text[]) t (tenant_id), lateral (select tenant_id, run_id, request, state, code from runs
    where tenant_id = t.tenant_id and pipeline = 'training' order by requested_at desc, version desc limit 1) r
where r.state = 'blocked' and r.code = 'data_quality';

-- passable($1 now): active tenants whose newest training the gate blocked although it would let the next one pass
select t.tenant_id
from tenants t left join quality_states s using (tenant_id), lateral (select state, code from runs
    where tenant_id = t.tenant_id and pipeline = 'training' order by requested_at desc, version desc limit 1) r
where t.status = 'active' and r.state = 'blocked' and r.code = 'data_quality'
  and (s.watched and s.verdict in ('pass', 'warn') or exists (select 1 from quality_allowances a where a.tenant_id = t.tenant_id and a.until > $1));

-- allow($1 tenant, $2 reason, $3 by, $4 now, $5 until): let a tenant train in spite of its verdict
insert into quality_allowances (tenant_id, reason, given_by, given_at, until) values ($1, $2, $3, $4, $5);

-- tenants($1 limit): every tenant that was ever measured and is not deleted, most trouble first; below them who is suspended
select s.tenant_id, t.status, s.verdict, s.watched, s.at, s.run_id,
       (select count(*) from jsonb_array_elements(s.checks) c where c ->> 'status' in ('fail', 'error')) as failing,
       coalesce(i.open, 0) as incidents, i.worst,
       (select max(a.until) from quality_allowances a where a.tenant_id = s.tenant_id) as allowed_until
from quality_states s join tenants t on t.tenant_id = s.tenant_id and t.status <> 'deleted'
left join (select tenant_id, count(*) as open, max(array_position(array['low', 'medium', 'high', 'critical'], severity)) as worst
           from incidents where state = 'open' group by tenant_id) i on i.tenant_id = s.tenant_id
order by t.status = 'suspended', array_position(array['fail', 'error', 'warn', 'pass'], s.verdict), i.worst desc nulls last, failing desc, s.tenant_id
limit $1;

-- tenant($1 tenant): the newest verdict in full
select s.tenant_id, s.watched, s.verdict, s.checks, s.run_id, s.at,
       (select jsonb_build_object('reason', a.reason, 'by', a.given_by, 'given_at', a.given_at, 'until', a.until)
        from quality_allowances a where a.tenant_id = s.tenant_id order by a.until desc limit 1) as allowance
from quality_states s where s.tenant_id = $1;

-- history($1 tenant, $2 limit): the tenant's ticks, newest first
select tenant_id, at, run_id, verdict, checks, decisions from quality_verdicts where tenant_id = $1 order by at desc limit $2;

-- incident_list($1 tenant or null, $2 state or null, $3 limit): incidents, newest first
select i.id, i.tenant_id, i.check_name, i.state, i.severity, i.title, i.details, i.opened_at, i.changed_at, i.resolved_at, i.transitions, i.flaps,
       (select count(*) from incident_transitions t where t.incident_id = i.id and t.delivered_at is null) as undelivered
from incidents i where ($1::text is null or i.tenant_id = $1) and ($2::text is null or i.state = $2) order by i.opened_at desc, i.id limit $3;

-- timeline($1 tenant, $2 limit): what somebody was told about a tenant, newest first
select t.incident_id, i.check_name, t.number, t.kind, t.severity, t.title, t.message, t.at, t.delivered_at, t.attempts, t.code
from incident_transitions t join incidents i on i.id = t.incident_id where t.tenant_id = $1 order by t.at desc, t.number desc limit $2;
