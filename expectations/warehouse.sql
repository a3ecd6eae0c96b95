-- The watched tables as the tenants' warehouse has them, for demo and tests; a real warehouse brings its own. Deliberately without
-- constraints: dirty data must be able to lie in it. Running this again changes nothing.

create table if not exists tenants (
    tenant_id   text primary key,
    name        text,
    status      text not null default 'active'
);

create table if not exists users (
    user_id     text,
    tenant_id   text,
    created_at  timestamptz
);
create index if not exists users_key on users (tenant_id, user_id);
create index if not exists users_created on users (tenant_id, created_at);

create table if not exists items (
    item_id     text,
    tenant_id   text,
    content     text,
    metadata    jsonb,
    created_at  timestamptz
);
create index if not exists items_key on items (tenant_id, item_id);
create index if not exists items_created on items (tenant_id, created_at);

create table if not exists user_interactions (
    user_id          text,
    item_id          text,
    interaction_type text,
    "timestamp"      timestamptz,
    tenant_id        text,
    created_at       timestamptz default now()
);
create index if not exists user_interactions_time on user_interactions (tenant_id, "timestamp");
create index if not exists user_interactions_created on user_interactions (tenant_id, created_at);

-- Kept by Tidemill: one row a finished training run; `version` orders what is known of it.
create table if not exists model_training_runs (
    run_id       uuid primary key,
    tenant_id    text not null,
    status       text not null,
    started_at   timestamptz,
    completed_at timestamptz,
    code         text,
    reason       text,
    version      bigint not null default 0
);
create index if not exists model_training_runs_tenant on model_training_runs (tenant_id, completed_at);

do $$
declare v_role text;
begin
    foreach v_role in array array['tidemill_reader', 'tidemill_projector'] loop
        begin
            execute format('create role %I nologin', v_role);
        exception when duplicate_object or unique_violation then null;   -- roles belong to the server, not to this database
        end;
        if not pg_has_role(current_user, v_role, 'set') then
            execute format('grant %I to %I with set true', v_role, current_user);
        end if;
    end loop;
end $$;
grant usage on schema public to tidemill_reader, tidemill_projector;
grant select on tenants, users, items, user_interactions, model_training_runs to tidemill_reader;
grant select, insert, update on model_training_runs to tidemill_projector;
