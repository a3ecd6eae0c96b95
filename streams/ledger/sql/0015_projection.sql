-- A run that was opened again ends twice: each end has a place of its own in the queue. With one place for both, an end that came while the one before
-- it was being shown found the place taken, and was taken away with it.
alter table projection_queue add column version bigint not null default 0;
alter table projection_queue drop constraint projection_queue_pkey;
alter table projection_queue add primary key (run_id, version);
create or replace function queue_projection() returns trigger language plpgsql as $$
begin
    insert into projection_queue (run_id, version) values (new.run_id, new.version) on conflict do nothing;
    return null;
end $$;
