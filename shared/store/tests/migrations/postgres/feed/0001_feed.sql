-- What changed, as in shared/store/src/postgres/feed.rs.
CREATE TABLE changes (
    xid      xid8        NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint      GENERATED ALWAYS AS IDENTITY,
    org_id   text        NOT NULL COLLATE "C" CHECK (org_id <> ''),
    version  bigint      NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (xid, sequence)
);
CREATE INDEX changes_by_age ON changes (at);

ALTER TABLE changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE changes FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON changes USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON changes FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
CREATE POLICY pruning ON changes FOR DELETE USING (current_setting('pulse.tenant', true) = '*');

-- One row: which life of the feed this is, on which start of the server and for which table, and up to which transaction
-- changes have been dropped. Not logged, so that it does not outlive a crash, after which ids of transactions may come again.
CREATE UNLOGGED TABLE feed (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch          bigint      NOT NULL DEFAULT extract(epoch FROM clock_timestamp()) * 1000000,
    server_started timestamptz NOT NULL DEFAULT pg_postmaster_start_time(),
    changes        oid         NOT NULL DEFAULT 'changes'::regclass,
    pruned         xid8        NOT NULL DEFAULT '0'
);

-- What each follower has heard of; worth nothing after a crash, when all of them have to say so again.
CREATE UNLOGGED TABLE followers (
    id      uuid        PRIMARY KEY,
    heard   pg_snapshot NOT NULL,
    seen_at timestamptz NOT NULL
);

GRANT SELECT, INSERT, DELETE ON changes TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE ON feed TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE, DELETE ON followers TO pulse_lifecycle;
