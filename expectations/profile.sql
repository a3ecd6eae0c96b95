-- The profile of a chunk of tenants: set-based passes over the watched tables, no value and no name put into the text. Every pass begins with
-- `due`: the tenants, for each of them since when rows are read (null: all) and which interaction types are allowed; the earliest of these times;
-- the time before which rows are counted for good; now; and how far a publisher's clock may be ahead. `:tenants`, `:earliest`, `:settled`, `:now`
-- stand for the same parameters, as constants that the planner can estimate.
-- "from due d join T u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)" is how a table is read. Where everything is,
-- it becomes "from T u where u.tenant_id = any (:tenants)", which looks a row's tenant up for half the price of a join; where only new rows are,
-- the condition becomes its second half, with the earliest time as a bound, so that an index serves it.
-- "not exists (select 1 from T …)" becomes "false" where T cannot be read: what hangs on it is then not taken from the answer.

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
       count(*) filter (where u.created_at is null) as null_created_at, count(*) filter (where u.created_at >= :settled) as tail
from due d join users u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
group by u.tenant_id;

-- items(due): rows, nulls per required column, future rows
select i.tenant_id, count(*) as rows, count(*) filter (where i.item_id is null) as null_item_id,
       count(*) filter (where i.content is null) as null_content, count(*) filter (where i.created_at is null) as null_created_at,
       count(*) filter (where i.created_at > :now + :tolerance) as future,
       count(*) filter (where i.created_at >= :settled) as tail
from due d join items i on i.tenant_id = d.tenant_id and (d.since is null or i.created_at >= d.since)
group by i.tenant_id;

-- users_undated(due): rows without the time by which new rows are found; this and the next two are asked of indexes, at every tick
select u.tenant_id, count(*) as null_created_at from users u where u.tenant_id = any (:tenants) and u.created_at is null group by u.tenant_id;

-- items_undated(due): the same of items
select i.tenant_id, count(*) as null_created_at from items i where i.tenant_id = any (:tenants) and i.created_at is null group by i.tenant_id;

-- user_interactions_undated(due): the same of interactions
select u.tenant_id, count(*) as null_created_at from user_interactions u where u.tenant_id = any (:tenants) and u.created_at is null group by u.tenant_id;

-- items_newest(due): seconds since the newest item that is not from the future
select d.tenant_id, extract(epoch from d.now - n.newest)::float8 as age
from due d,
lateral (select i.created_at as newest from items i where i.tenant_id = d.tenant_id and i.created_at <= d.now + d.tolerance
         and isfinite(i.created_at) order by i.created_at desc limit 1) n;

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

-- training_newest(due): seconds since the last training run that succeeded and is not from the future
select m.tenant_id, extract(epoch from d.now - max(m.completed_at))::float8 as age
from due d join model_training_runs m on m.tenant_id = d.tenant_id
where m.status in ('succeeded', 'succeeded_with_warnings', 'completed') and isfinite(m.completed_at) and m.completed_at <= d.now + d.tolerance
group by m.tenant_id, d.now;

-- user_interactions(due): rows, nulls per required column, invalid types, how many of each type (the twenty most frequent), orphans; in one reading
with read as materialized (   -- all for which every row has to be looked at
    select u.tenant_id, u.interaction_type as kind, u.item_id, u.user_id, count(*) as rows,
           grouping(u.interaction_type) = 0 as by_kind, grouping(u.item_id) = 0 as by_item, grouping(u.user_id) = 0 as by_user
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
    group by grouping sets ((u.tenant_id, u.interaction_type), (u.tenant_id, u.item_id), (u.tenant_id, u.user_id))
), kinds as (
    select r.tenant_id, r.kind, r.rows, case when not d.types ? r.kind then r.rows else 0 end as invalid
    from read r join due d on d.tenant_id = r.tenant_id where r.by_kind
), ranked as (
    select *, row_number() over (partition by tenant_id order by invalid > 0 desc, rows desc) as place from kinds
), typed as (
    select tenant_id, sum(rows)::bigint as rows, coalesce(sum(rows) filter (where kind is null), 0)::bigint as null_interaction_type,
           sum(invalid)::bigint as invalid,
           coalesce(jsonb_object_agg(left(kind, 80), rows) filter (where place <= 20 and kind is not null), '{}') as types,
           coalesce(jsonb_object_agg(left(kind, 80), rows) filter (where place <= 20 and invalid > 0), '{}') as invalid_types
    from ranked group by tenant_id
), untold as (
    select r.tenant_id, sum(r.rows) filter (where r.by_user) as users, sum(r.rows) filter (where r.by_item) as items
    from read r where r.by_user and r.user_id is null or r.by_item and r.item_id is null group by r.tenant_id
), untimed as (   -- this and the next are asked of indexes
    select u.tenant_id, count(*) as rows
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since) and u."timestamp" is null
    group by u.tenant_id
), young as (
    select u.tenant_id, count(*) as rows
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since) and u.created_at >= :settled
    group by u.tenant_id
), lost as (   -- each item is looked up once, however often it occurs; so is each user
    select r.tenant_id, sum(r.rows)::bigint as rows from read r where r.by_item and r.item_id is not null
    and not exists (select 1 from items i where i.tenant_id = any (:tenants) and i.tenant_id = r.tenant_id and i.item_id = r.item_id)
    group by r.tenant_id
), strange as (
    select r.tenant_id, sum(r.rows)::bigint as rows from read r where r.by_user and r.user_id is not null
    and not exists (select 1 from users p where p.tenant_id = any (:tenants) and p.tenant_id = r.tenant_id and p.user_id = r.user_id)
    group by r.tenant_id
)
select t.tenant_id, t.rows, coalesce(n.users, 0)::bigint as null_user_id, coalesce(n.items, 0)::bigint as null_item_id, t.null_interaction_type,
       coalesce(m.rows, 0) as null_timestamp, t.invalid, coalesce(y.rows, 0) as tail, t.types, t.invalid_types,
       coalesce(l.rows, 0) as orphan_items_count, coalesce(s.rows, 0) as orphan_users_count
from typed t left join untold n using (tenant_id) left join untimed m using (tenant_id) left join young y using (tenant_id)
     left join lost l using (tenant_id) left join strange s using (tenant_id);

-- duplicates(due): rows beyond the first of each group of equal interactions, everything read
with again as materialized (   -- equal rows have equal times, which an index has in order, tenant by tenant: mostly nothing else is to be looked at
    select d.tenant_id, r.at from due d,
    lateral (select u."timestamp" as at from user_interactions u where u.tenant_id = d.tenant_id group by u."timestamp" having count(*) > 1) r
)
select tenant_id, sum(n - 1)::bigint as count
from (select a.tenant_id, r.n from again a,
      lateral (select count(*) as n from user_interactions u where u.tenant_id = a.tenant_id and u."timestamp" = a.at
               group by u.user_id, u.item_id, u.interaction_type having count(*) > 1) r
      union all
      select a.tenant_id, r.n from again a,
      lateral (select count(*) as n from user_interactions u where u.tenant_id = a.tenant_id and a.at is null and u."timestamp" is null
               group by u.user_id, u.item_id, u.interaction_type having count(*) > 1) r) repeated
group by tenant_id;

-- new_duplicates(due): the same, of interactions that are new since the last tick; a repetition can only come with a new row
with fresh as (
    select distinct u.tenant_id, u.user_id, u.item_id, u.interaction_type, u."timestamp"
    from due d join user_interactions u on u.tenant_id = d.tenant_id and (d.since is null or u.created_at >= d.since)
)
select tenant_id, sum(n - 1)::bigint as count
from (select f.tenant_id, n.n from fresh f,
      lateral (select count(*) as n from user_interactions u where u.tenant_id = f.tenant_id and u."timestamp" = f."timestamp"
               and u.user_id is not distinct from f.user_id and u.item_id is not distinct from f.item_id
               and u.interaction_type is not distinct from f.interaction_type) n
      union all   -- apart, so that an index on the time serves both
      select f.tenant_id, n.n from fresh f,
      lateral (select count(*) as n from user_interactions u where u.tenant_id = f.tenant_id and u."timestamp" is null
               and u.user_id is not distinct from f.user_id and u.item_id is not distinct from f.item_id
               and u.interaction_type is not distinct from f.interaction_type) n
      where f."timestamp" is null) repeated
where n > 1 group by tenant_id;
