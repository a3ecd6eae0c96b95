-- Rows of one tenant for whoever looks for the cause of a finding; bounded, and never of another tenant.

-- sample($1 tenant, $2 allowed types, $3 latest time, $4 limit of each half): interactions that break a rule, of every rule as many as there is
-- room for, then the newest of the others
with repeated as (   -- equal rows have equal times, which an index has in order
    select u."timestamp" as at from user_interactions u where u.tenant_id = $1 and u."timestamp" is not null
    group by u."timestamp" having count(*) > 1
), twins as (
    select row(u.user_id, u.item_id, u.interaction_type, u."timestamp")::text as twin
    from user_interactions u left join repeated r on r.at = u."timestamp" where u.tenant_id = $1 and (r.at is not null or u."timestamp" is null)
    group by u.user_id, u.item_id, u.interaction_type, u."timestamp" having count(*) > 1
), looked_up as (
    select row_number() over () as n, u.user_id::text, u.item_id::text, left(u.interaction_type, 80) as interaction_type, u."timestamp",
           exists (select 1 from items i where i.tenant_id = u.tenant_id and i.item_id = u.item_id) as item_exists,
           exists (select 1 from users p where p.tenant_id = u.tenant_id and p.user_id = u.user_id) as user_exists,
           coalesce(u."timestamp" <= $3::timestamptz, true) as in_time, coalesce(u.interaction_type <> all ($2::text[]), false) as strange,
           w.twin is not null as twin
    from user_interactions u left join twins w on w.twin = row(u.user_id, u.item_id, u.interaction_type, u."timestamp")::text
    where u.tenant_id = $1
), judged as (   -- each row is in one of the halves: a row in both would look like a duplicate
    select *, array_positions(array[user_id is null, item_id is null, interaction_type is null, "timestamp" is null, strange, not item_exists,
                                    not user_exists, not in_time, twin], true) as broken
    from looked_up
), ranked as (   -- the rows of each rule side by side, twins beside each other
    select n, row_number() over (partition by rule order by "timestamp" desc, user_id, item_id, interaction_type) as rank
    from judged, unnest(broken) rule where broken <> '{}'
), offending as (
    select n from ranked group by n order by min(rank), n limit $4
), newest as (
    select n from judged where broken = '{}' order by "timestamp" desc limit $4
)
select user_id, item_id, interaction_type, "timestamp", item_exists, user_exists, in_time
from judged where n in (select n from offending union all select n from newest);
