-- The tenants of `scripts/bench quality`: clean data, made by PostgreSQL itself. Interactions of all tenants lie mixed, as they arrive.

-- tenants($1 tenants): one entry each
insert into tenants (tenant_id, name) select format('shop-%s', lpad(t::text, 5, '0')), 'Shop ' || t from generate_series(0, $1::int - 1) t;

-- users($1 tenants, $2 users of each): all of them
insert into users (user_id, tenant_id, created_at)
select 'u' || n, format('shop-%s', lpad(t::text, 5, '0')), now() - interval '90 days'
from generate_series(0, $2::int - 1) n, generate_series(0, $1::int - 1) t;

-- items($1 tenants, $2 items of each): the newest an hour old
insert into items (item_id, tenant_id, content, metadata, created_at)
select 'i' || n, format('shop-%s', lpad(t::text, 5, '0')), 'thing ' || n, '{"price": 1}', now() - n % 120 * interval '1 hour' - interval '1 hour'
from generate_series(0, $2::int - 1) n, generate_series(0, $1::int - 1) t;

-- interactions($1 tenants, $2 users, $3 items, $4 rows, $5 seconds between two rows of a tenant, $6 newest): no two alike
insert into user_interactions (user_id, item_id, interaction_type, "timestamp", tenant_id, created_at)
select 'u' || (n * 7 + t) % $2::int, 'i' || (n * 13 + t) % $3::int, (array['view', 'click', 'purchase', 'like', 'share'])[1 + n % 5], at,
       format('shop-%s', lpad(t::text, 5, '0')), at
from generate_series(0, $4::bigint - 1) g, lateral (select g / $1::int as n, (g % $1::int)::int as t) w,
     lateral (select $6::timestamptz - w.n * $5::float8 * interval '1 second' as at) a;

-- trained($1 tenants): a training that succeeded three hours ago
insert into model_training_runs (run_id, tenant_id, status, completed_at)
select gen_random_uuid(), format('shop-%s', lpad(t::text, 5, '0')), 'succeeded', now() - interval '3 hours' from generate_series(0, $1::int - 1) t;
