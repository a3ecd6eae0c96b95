-- The ledger's tables. Truth: journal, tenants, inbox, offsets, effects, jobs, versions, dead letters.
-- Derived (dropped and refolded by `tidemill rebuild`): runs, steps, pipeline_heads.
-- Everything is keyed by tenant and nothing joins across tenants on the hot path, so it splits by tenant hash.

create table tenants (
    tenant_id   text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
    name        text,
    status      text not null default 'active' check (status in ('active', 'suspended', 'deleted')),
    owner       text,
    labels      jsonb not null default '{}',
    settings    jsonb not null default '{}',
    source_status text,                  -- what the warehouse said at the last sync
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    active_since timestamptz not null default now()  -- became active, or active again: before that nothing was expected of it
);

-- The tenant's lock and its journal number. Narrow, because every change of the tenant's state updates it.
create table tenant_heads (
    tenant_id   text primary key references tenants,
    seq         bigint not null default 0
) with (fillfactor = 50);

-- Which run of a pipeline is active for a tenant, and which one gathers the requests that come meanwhile.
create table pipeline_heads (
    tenant_id   text not null,
    pipeline    text not null,
    active_run  uuid,
    pending_run uuid,
    paused      boolean not null,        -- not given: found out as the row is made
    primary key (tenant_id, pipeline)
) with (fillfactor = 70);

create table journal (
    tenant_id   text not null,
    seq         bigint not null,
    at          timestamptz not null,
    run_id      uuid,
    kind        text not null,          -- requested accepted merged started step finished cancel reopened; without a run: about the tenant
    event_id    uuid,                   -- the event this entry put on Kafka, or took from it
    topic       text,
    causation   uuid,
    data        jsonb not null,
    primary key (tenant_id, seq)
);
create index journal_run on journal (run_id, seq);
create unique index journal_event on journal (event_id) where event_id is not null;

create table runs (
    run_id           uuid primary key,
    tenant_id        text not null,
    pipeline         text not null,
    pipeline_version text not null,
    state            text not null,
    stage            text,
    request          jsonb not null,    -- data of the newest cause: its config wins
    request_id       uuid not null,
    causes           integer not null,
    version          bigint not null,   -- the tenant's journal number of the last change
    warnings         integer not null default 0,
    code             text,
    reason           text,
    requested_at     timestamptz not null,
    started_at       timestamptz,
    finished_at      timestamptz,
    traceparent      text
) with (fillfactor = 60);
create index runs_of_tenant on runs (tenant_id, requested_at desc);
create index runs_newest on runs (requested_at desc);
create index runs_open on runs (state) where state in ('pending', 'running', 'cancelling');

create table causes (
    run_id      uuid not null,
    event_id    uuid not null,
    at          timestamptz not null,
    data        jsonb not null,
    primary key (run_id, event_id)
);

create table steps (
    run_id       uuid not null,
    stage        text not null,
    tenant_id    text not null,
    pipeline     text not null,
    state        text not null,
    round        integer not null,
    attempt      integer not null default 1,
    takeovers    integer not null default 0,      -- leases lost in this round
    due_at       timestamptz not null,
    deadline     timestamptz,
    worker       uuid,                            -- who leases it now
    fence        bigint not null default 0,       -- grows with every claim; a commit names the one it was claimed with
    limit_name   text,
    input        jsonb not null,
    input_type   text not null,
    input_id     uuid not null,
    job          jsonb,                           -- the *Started event while the step waits
    output       jsonb,
    output_type  text,
    code         text,
    error        text,
    waiting_for  text,
    class        smallint not null default 1,     -- of its tenant's priority: 0 before 1 before 2
    turn         float8 not null default 0,       -- its place in the dispatcher's order; 0: it was handed over, never queued
    ready_at     timestamptz not null,
    started_at   timestamptz,
    waiting_at   timestamptz,
    finished_at  timestamptz,
    primary key (run_id, stage)
) with (fillfactor = 60);
create index steps_due on steps (due_at) where worker is null and state = 'ready';
create index steps_waiting on steps (due_at) where worker is null and state = 'waiting';   -- apart: a long queue is not to be read for the jobs to be asked after
create index steps_leased on steps (worker) where worker is not null;
create index steps_queued on steps (class, turn) where worker is null and state = 'ready';
create index steps_limited on steps (limit_name, class, turn) where worker is null and state = 'ready' and limit_name is not null;
create index steps_taken on steps (class, turn) where turn > 0 and state <> 'ready';
create index steps_turns on steps (tenant_id, class, turn) where turn > 0;

-- The meeting point of a job id's commit and the job's completion, whichever comes first.
create table jobs (
    engine        text not null,
    job_id        text not null,
    tenant_id     text not null,
    run_id        uuid,
    stage         text,
    round         integer,
    completion    jsonb,
    completion_id uuid,
    failed        boolean,
    completed_at  timestamptz,
    primary key (engine, job_id, tenant_id)   -- what another tenant says of a job is kept apart and never hides the owner's word
);

create table outbox (
    id          bigint generated always as identity primary key,
    event_id    uuid not null,
    topic       text,                   -- null: only the state below changed
    tenant_id   text not null,
    run_id      uuid,
    causation   uuid,
    seq         bigint not null,
    at          timestamptz not null,
    traceparent text,
    value       text,
    state       boolean not null,       -- the run changed: its whole state, as it is by then, goes to the topic run.state
    worker      uuid default nullif(current_setting('tidemill.worker', true), '')::uuid,   -- who publishes it from memory as long as it lives
    created_at  timestamptz not null default clock_timestamp()
);

create table unpublishable (
    like outbox,
    refused_at  timestamptz not null default clock_timestamp(),
    error       text not null
);

-- Which foreign events were seen, and what became of them.
create table inbox (
    event_key   uuid primary key,
    tenant_id   text,
    topic       text not null,
    partition   integer,
    "offset"    bigint,
    event_id    uuid not null,
    body        bytea,
    run_id      uuid,
    fate        text not null,          -- run merged matched early set_aside tick
    code        text,
    at          timestamptz not null
);
create index inbox_run on inbox (run_id) where run_id is not null;

-- Requests for every tenant at once: expanded into one request a tenant, a chunk a transaction, by whichever worker is there.
create table expansions (
    event_key   uuid primary key,
    event_id    uuid not null,
    pipeline    text not null,
    data        jsonb not null,
    source      text not null,
    chosen      jsonb not null default '{}', -- which of them: {labels, owner, status}
    publish     boolean not null default false,  -- the requests are ours and go to Kafka (API, CLI)
    after       text not null default '',    -- the last tenant that was expanded
    tenants     integer not null default 0,
    at          timestamptz not null,
    done_at     timestamptz
);
create index expansions_open on expansions (at) where done_at is null;

create table offsets (
    topic       text not null,
    partition   integer not null,
    next        bigint not null,
    primary key (topic, partition)
) with (fillfactor = 50);

create table gaps (
    topic       text not null,
    partition   integer not null,
    first       bigint not null,
    past        bigint not null,
    state       text not null default 'open' check (state in ('open', 'reread', 'no_record', 'expired')),
    seen_at     timestamptz not null default clock_timestamp(),
    lease_until timestamptz,             -- a worker reads it again until then
    closed_at   timestamptz,
    primary key (topic, partition, first)
);
create index gaps_open on gaps (seen_at) where state = 'open';

create table effects (
    id             bigint generated always as identity primary key,
    key            text not null,
    run_id         uuid,
    tenant_id      text not null,
    stage          text,
    round          integer,
    command        text not null,
    status         integer not null,
    request_sha256 bytea not null,
    reply_sha256   bytea not null,
    reply          jsonb not null,
    worker         uuid,
    sent_at        timestamptz not null,
    at             timestamptz not null default clock_timestamp()
);
create index effects_run on effects (run_id);

create table workers (
    worker_id   uuid primary key,
    slot        integer not null,
    host        text not null,
    pid         integer not null,
    started_at  timestamptz not null default clock_timestamp(),
    lease_until timestamptz not null,
    stopped_at  timestamptz
);

create table limit_slots (
    name        text not null,
    n           integer not null,
    run_id      uuid not null,
    stage       text not null,
    since       timestamptz not null default clock_timestamp(),
    primary key (name, n),
    unique (run_id, stage)
);

create table versions (
    tenant_id   text not null,
    number      integer not null,
    run_id      uuid,
    round       integer not null default 1,
    model_path  text not null,
    index_path  text not null,
    instead_of  integer,                 -- a rollback: the unhealthy number that this one replaces
    state       text not null default 'reserved' check (state in ('reserved', 'live', 'retired', 'rejected')),
    reason      text,
    created_at  timestamptz not null default clock_timestamp(),
    live_at     timestamptz,
    retired_at  timestamptz,
    primary key (tenant_id, number),
    unique (run_id, round),
    unique (tenant_id, instead_of)
);
create unique index versions_live on versions (tenant_id) where state = 'live';

create table dead_letters (
    id          uuid primary key,
    topic       text not null,
    partition   integer not null,
    "offset"    bigint not null,
    tenant_id   text,
    key         bytea,
    value       bytea,                   -- cut at 1 MiB
    size        bigint not null,
    sha256      bytea not null,
    headers     jsonb not null,
    cluster     text not null,           -- with place and time the identity of an event that has no id of its own
    timestamp_ms bigint not null,
    code        text not null,
    sentence    text not null,
    state       text not null default 'open' check (state in ('open', 'redriven', 'dropped')),
    at          timestamptz not null,
    settled_at  timestamptz,
    unique (topic, partition, "offset", timestamp_ms, cluster)   -- a topic made anew begins with the same offsets
);

-- One row: how far tests have moved the clock (Clock in streams/clock.py adds it to the database's time).
create table clock (
    id          boolean primary key default true check (id),
    ahead       interval not null default '0'
);
insert into clock default values;
