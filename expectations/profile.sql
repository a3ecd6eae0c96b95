-- The profile of a chunk of tenants: set-based passes over the watched tables, no value and no name put into the text. Every pass begins with
-- `due`: the tenants, for each of them since when rows are read (null: all) and which interaction types are allowed; the earliest of these times;
-- the time before which rows are counted for good; now; and how far a publisher's clock may be ahead. Where everything is read,
-- "and (d.since is null or u.created_at >= d.since)" is left out. Where only new rows are, it becomes its second half, with the earliest time as
-- a bound that the planner can estimate, so that an index serves it.

-- due($1 tenants, $2 since, $3 types, $4 earliest, $5 settled, $6 now, $7 tolerance): whose turn it is
with due (tenant_id, since, types, earliest, settled, now, tolerance) as (   -- the planner knows how many there are, and that no two are the same
    select distinct on (tenant_id) tenant_id, since, types, $4::timestamptz, $5::timestamptz, $6::timestamptz, $7::interval
    from unnest($1::text[], $2::timestamptz[], $3::jsonb[]) as each (tenant_id, since, types)
)

-- shape(): the columns that the watched tables really have, with their types
select c.relname::text as table, a.attname::text as column, t.typname::text as type
from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
where c.oid in (select to_regclass(n)::oid from unnest(array['tenants', 'users', 'items', 'user_interactions', 'model_training_runs']) n)
  and a.attnum > 0 and not a.attisdropped;

-- tenants(due): which tenants the warehouse knows
select d.tenant_id, t.tenant_id is not null as known
from due d left join tenants t on t.tenant_id = d.tenant_id;

-- users(due): rows, and nulls per required column
select u.tenant_id, count(*) as rows, count(*) filter (where u.user_id is null) as null_user_id,
       count(*) filter (where u.created_at is null) as null_created_at, count(*) filter (where u.created_at >= d.settled) as tail
from due d join users u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
group by u.tenant_id;

-- items(due): rows, nulls per required column, future rows
select i.tenant_id, count(*) as rows, count(*) filter (where i.item_id is null) as null_item_id,
       count(*) filter (where i.content is null) as null_content, count(*) filter (where i.created_at is null) as null_created_at,
       count(*) filter (where i.created_at > d.now + d.tolerance) as future,
       count(*) filter (where i.created_at >= d.settled) as tail
from due d join items i on i.tenant_id = d.tenant_id and (d.since is null or i.created_at >= d.since)
group by i.tenant_id;

-- items_newest(due): seconds since the newest item that is not from the future
select d.tenant_id, extract(epoch from d.now - n.newest)::float8 as age
from due d,
lateral (select i.created_at as newest from items i where i.tenant_id = d.tenant_id and i.created_at <= d.now + d.tolerance
         and isfinite(i.created_at) order by i.created_at desc limit 1) n;

-- user_interactions(due): rows, nulls per required column, invalid types, and how many of each type (the twenty most frequent)
with kinds as (
    select u.tenant_id, u.interaction_type as kind, count(*) as rows, count(*) filter (where u.user_id is null) as null_user_id,
           count(*) filter (where u.item_id is null) as null_item_id, count(*) filter (where u.interaction_type is null) as null_interaction_type,
           count(*) filter (where u."timestamp" is null) as null_timestamp,
           count(*) filter (where not d.types ? u.interaction_type) as invalid,
           count(*) filter (where u.created_at >= d.settled) as tail
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
    group by u.tenant_id, u.interaction_type
), ranked as (
    select *, row_number() over (partition by tenant_id order by invalid > 0 desc, rows desc) as place from kinds
)
select tenant_id, sum(rows)::bigint as rows, sum(null_user_id)::bigint as null_user_id, sum(null_item_id)::bigint as null_item_id,
       sum(null_interaction_type)::bigint as null_interaction_type, sum(null_timestamp)::bigint as null_timestamp, sum(invalid)::bigint as invalid,
       sum(tail)::bigint as tail,
       coalesce(jsonb_object_agg(left(kind, 80), rows) filter (where place <= 20 and kind is not null), '{}') as types,
       coalesce(jsonb_object_agg(left(kind, 80), rows) filter (where place <= 20 and invalid > 0), '{}') as invalid_types
from ranked group by tenant_id;

-- interactions_recent(due): future rows, and what happened in the last hour and day; read through the index on time
select d.tenant_id, f.future, r.rows_hour, r.rows_day, r.users_day, r.items_day
from due d,
lateral (select count(*) as future from user_interactions u where u.tenant_id = d.tenant_id and u."timestamp" > d.now + d.tolerance) f,
lateral (select count(*) filter (where u."timestamp" > d.now - interval '1 hour') as rows_hour, count(*) as rows_day,
                count(distinct u.user_id) as users_day, count(distinct u.item_id) as items_day
         from user_interactions u where u.tenant_id = d.tenant_id and u."timestamp" > d.now - interval '1 day'
         and u."timestamp" <= d.now + d.tolerance) r;

-- interactions_newest(due): seconds since the newest interaction that is not from the future
select d.tenant_id, extract(epoch from d.now - n.newest)::float8 as age
from due d,
lateral (select u."timestamp" as newest from user_interactions u where u.tenant_id = d.tenant_id and u."timestamp" <= d.now + d.tolerance
         and isfinite(u."timestamp") order by u."timestamp" desc limit 1) n;

-- training_newest(due): seconds since the last training run that succeeded
select m.tenant_id, extract(epoch from d.now - max(m.completed_at))::float8 as age
from due d join model_training_runs m on m.tenant_id = d.tenant_id
where m.status in ('succeeded', 'succeeded_with_warnings', 'completed') and isfinite(m.completed_at)
group by m.tenant_id, d.now;

-- orphan_items(due): interactions whose item does not exist; each item is looked up once, however often it occurs
select n.tenant_id, sum(n.rows)::bigint as count
from (select u.tenant_id, u.item_id, count(*) as rows
      from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
      where u.item_id is not null group by u.tenant_id, u.item_id) n
where not exists (select 1 from items i where i.tenant_id = n.tenant_id and i.item_id = n.item_id)
group by n.tenant_id;

-- orphan_users(due): interactions whose user does not exist
select n.tenant_id, sum(n.rows)::bigint as count
from (select u.tenant_id, u.user_id, count(*) as rows
      from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
      where u.user_id is not null group by u.tenant_id, u.user_id) n
where not exists (select 1 from users p where p.tenant_id = n.tenant_id and p.user_id = n.user_id)
group by n.tenant_id;

-- duplicates(due): rows beyond the first of each group of equal interactions, everything read
with again as materialized (   -- equal rows have equal times, which an index has in order: mostly nothing else is to be looked at
    select u.tenant_id, u."timestamp" as at from due d join user_interactions u on u.tenant_id = d.tenant_id
    group by u.tenant_id, u."timestamp" having count(*) > 1
)
select tenant_id, sum(n - 1)::bigint as count
from (select u.tenant_id, count(*) as n from again a join user_interactions u on u.tenant_id = a.tenant_id and u."timestamp" = a.at
      group by u.tenant_id, u.user_id, u.item_id, u.interaction_type, u."timestamp" having count(*) > 1
      union all
      select u.tenant_id, count(*) from again a join user_interactions u on u.tenant_id = a.tenant_id where a.at is null and u."timestamp" is null
      group by u.tenant_id, u.user_id, u.item_id, u.interaction_type having count(*) > 1) repeated
group by tenant_id;

-- new_duplicates(due): the same, of interactions that are new since the last tick; a repetition can only come with a new row
with fresh as (
    select distinct u.tenant_id, u.user_id, u.item_id, u.interaction_type, u."timestamp"
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
)
select f.tenant_id, sum(n.n - 1)::bigint as count
from fresh f, lateral (select count(*) as n from user_interactions u where u.tenant_id = f.tenant_id and u."timestamp" = f."timestamp"
    and u.user_id is not distinct from f.user_id and u.item_id is not distinct from f.item_id
    and u.interaction_type is not distinct from f.interaction_type) n
where n.n > 1 group by f.tenant_id;
