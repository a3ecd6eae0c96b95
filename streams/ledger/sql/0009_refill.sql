-- A ledger that was set back: what it must know until, and after, it is refilled from the topics.

-- One row while Kafka knows more than this ledger: API, CLI and timers ask in vain, and workers hold back, until it is refilled.
create table reconciling (
    id          boolean primary key default true check (id),
    since       timestamptz not null default clock_timestamp(),
    reason      text not null
);

-- Events that went out and whose moves a refilled journal could not keep: ours all the same.
create index journal_undone on journal (((data ->> 'undone')::uuid)) where kind = 'refilled';
