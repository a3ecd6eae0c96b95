-- Rows of one tenant for whoever looks for the cause of a finding; bounded, and never of another tenant.

-- sample($1 tenant, $2 allowed types, $3 latest time, $4 limit of each half): offending interactions, then the newest ones
with looked_up as (
    select u.user_id::text, u.item_id::text, left(u.interaction_type, 80) as interaction_type, u."timestamp",
           exists (select 1 from items i where i.tenant_id = u.tenant_id and i.item_id = u.item_id) as item_exists,
           exists (select 1 from users p where p.tenant_id = u.tenant_id and p.user_id = u.user_id) as user_exists,
           coalesce(u."timestamp" <= $3::timestamptz, true) as in_time
    from user_interactions u where u.tenant_id = $1
), judged as (   -- each row is in one of the halves: a row in both would look like a duplicate
    select *, user_id is null or item_id is null or interaction_type is null or "timestamp" is null
       or interaction_type <> all ($2::text[]) or not item_exists or not user_exists or not in_time as offends
    from looked_up
), offending as (
    select * from judged where offends limit $4
), newest as (
    select * from judged where not offends order by "timestamp" desc limit $4
)
select user_id, item_id, interaction_type, "timestamp", item_exists, user_exists, in_time
from (select * from offending union all select * from newest) sampled;
