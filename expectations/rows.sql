-- Rows of one tenant for whoever looks for the cause of a finding; bounded, and never of another tenant.

-- sample($1 tenant, $2 allowed types, $3 latest time, $4 limit of each half): offending interactions, then the newest ones
with judged as (
    select u.user_id::text, u.item_id::text, left(u.interaction_type, 80) as interaction_type, u."timestamp",
           exists (select 1 from items i where i.tenant_id = u.tenant_id and i.item_id = u.item_id) as item_exists,
           exists (select 1 from users p where p.tenant_id = u.tenant_id and p.user_id = u.user_id) as user_exists
    from user_interactions u where u.tenant_id = $1
), offending as (
    select * from judged where user_id is null or item_id is null or interaction_type is null or "timestamp" is null
       or interaction_type <> all ($2::text[]) or not item_exists or not user_exists or "timestamp" > $3::timestamptz limit $4
), newest as (
    select * from judged where "timestamp" <= $3::timestamptz order by "timestamp" desc limit $4
)
select * from offending union all select * from newest;
