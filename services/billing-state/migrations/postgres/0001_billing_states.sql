-- Billing states, what is left of those that are gone, this service's audit chains and its feed. The owner is pulse_migrator; what the
-- service may do with each table is at the end.
--
-- What the program decides is decided again here: a row that it should never write cannot be written. Functions name the schemas
-- that they look into, so that nobody can put a table of his own in the way of another.

-- The audit chain, as in shared/store/src/audit/postgres.rs.
CREATE TABLE audit_events (
    org_id        text        NOT NULL COLLATE "C" CHECK (org_id <> ''),
    sequence      bigint      NOT NULL CHECK (sequence >= 1),
    occurred_at   timestamptz NOT NULL,
    actor         text        NOT NULL CHECK (actor <> ''),
    action        text        NOT NULL CHECK (action <> ''),
    details       text        CHECK (details::json IS NOT NULL OR details IS NULL),
    salt          bytea       CHECK (octet_length(salt) = 16),
    details_hash  bytea       NOT NULL CHECK (octet_length(details_hash) = 32),
    previous_hash bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash          bytea       NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (org_id, sequence),
    CONSTRAINT erased_together CHECK ((details IS NULL) = (salt IS NULL))
);

CREATE TABLE audit_heads (
    org_id   text   PRIMARY KEY COLLATE "C",
    sequence bigint NOT NULL CHECK (sequence >= 1),
    hash     bytea  NOT NULL CHECK (octet_length(hash) = 32)
);

ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON audit_events USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON audit_events FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON audit_heads USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON audit_heads FOR SELECT USING (current_setting('pulse.tenant', true) = '*');

CREATE FUNCTION audit_events_change_only_by_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.details IS NOT NULL
        OR (NEW.org_id, NEW.sequence, NEW.occurred_at, NEW.actor, NEW.action, NEW.details_hash, NEW.previous_hash, NEW.hash)
        IS DISTINCT FROM
        (OLD.org_id, OLD.sequence, OLD.occurred_at, OLD.actor, OLD.action, OLD.details_hash, OLD.previous_hash, OLD.hash)
    THEN
        RAISE EXCEPTION 'an audit record changes only by erasure'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_events_change_only_by_erasure';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_events_change_only_by_erasure BEFORE UPDATE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_events_change_only_by_erasure();

CREATE FUNCTION audit_heads_only_advance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence + 1 THEN
        RAISE EXCEPTION 'the head of an audit chain only advances'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_heads_only_advance';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_heads_only_advance BEFORE UPDATE ON audit_heads
    FOR EACH ROW EXECUTE FUNCTION audit_heads_only_advance();

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

-- One state a tenant. `state` is the document that `billing.json` is elsewhere, and the truth; the columns beside it are there to be
-- asked for, and cannot say anything else. It is changed through the service, which records every change: one without its
-- audit record is refused.
CREATE TABLE billing_states (
    org_id             text        NOT NULL COLLATE "C",
    subscription_state text        NOT NULL COLLATE "C",
    state              jsonb       NOT NULL,
    etag               text        NOT NULL COLLATE "C",
    revision           bigint      NOT NULL,                -- the sequence of its audit record
    created_by_key     text        COLLATE "C",             -- of the request that made the first state, if it had one
    updated_at         timestamptz NOT NULL,
    CONSTRAINT billing_states_pkey PRIMARY KEY (org_id),
    -- Above all not '*', which stands for every tenant.
    CONSTRAINT billing_states_id_is_well_formed CHECK (org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT billing_states_subscription_state_is_known
        CHECK (subscription_state IN ('trial', 'active', 'grace', 'expired', 'suspended')),
    CONSTRAINT billing_states_columns_repeat_the_document CHECK (
        jsonb_typeof(state) = 'object'
        AND (state ->> 'org_id') IS NOT DISTINCT FROM org_id
        AND (state ->> 'subscription_state') IS NOT DISTINCT FROM subscription_state
        AND (state ->> 'etag') IS NOT DISTINCT FROM etag),
    CONSTRAINT billing_states_etag_is_well_formed CHECK (etag ~ '^[0-9a-f]{32}$'),
    -- No instant that the program knows is 'infinity'.
    CONSTRAINT billing_states_times_are_finite CHECK (isfinite(updated_at)),
    CONSTRAINT billing_states_are_audited FOREIGN KEY (org_id, revision) REFERENCES audit_events (org_id, sequence)
);

-- Tenants that are gone, and stay so.
CREATE TABLE purged_tenants (
    org_id    text        NOT NULL COLLATE "C",
    purged_at timestamptz NOT NULL,
    CONSTRAINT purged_tenants_pkey PRIMARY KEY (org_id),
    CONSTRAINT purged_tenants_id_is_well_formed CHECK (org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT purged_tenants_times_are_finite CHECK (isfinite(purged_at))
);

CREATE FUNCTION billing_states_only_advance() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_billing_state, pg_temp AS $$
BEGIN
    IF (NEW.org_id, NEW.created_by_key) IS DISTINCT FROM (OLD.org_id, OLD.created_by_key) OR NEW.revision <> OLD.revision + 1 THEN
        RAISE EXCEPTION 'a billing state stays that of its tenant and maker, and changes by one revision at a time'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'billing_states_only_advance';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER billing_states_only_advance BEFORE UPDATE ON billing_states
    FOR EACH ROW EXECUTE FUNCTION billing_states_only_advance();

-- For states, and for audit records too: of a purged tenant nothing is kept but that it was.
CREATE FUNCTION purged_tenants_stay_gone() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_billing_state, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM purged_tenants WHERE org_id = NEW.org_id) THEN
        RAISE EXCEPTION 'nothing is stored of a tenant that was purged'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'purged_tenants_stay_gone';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER purged_tenants_stay_gone BEFORE INSERT ON billing_states
    FOR EACH ROW EXECUTE FUNCTION purged_tenants_stay_gone();
CREATE TRIGGER purged_tenants_stay_gone BEFORE INSERT ON audit_events
    FOR EACH ROW EXECUTE FUNCTION purged_tenants_stay_gone();
CREATE TRIGGER purged_tenants_stay_gone BEFORE INSERT ON audit_heads
    FOR EACH ROW EXECUTE FUNCTION purged_tenants_stay_gone();

CREATE FUNCTION purged_tenants_are_gone() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_billing_state, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM billing_states WHERE org_id = NEW.org_id)
        OR EXISTS (SELECT FROM audit_events WHERE org_id = NEW.org_id)
        OR EXISTS (SELECT FROM audit_heads WHERE org_id = NEW.org_id)
    THEN
        RAISE EXCEPTION 'something is still stored of the tenant'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'purged_tenants_are_gone';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER purged_tenants_are_gone BEFORE INSERT ON purged_tenants
    FOR EACH ROW EXECUTE FUNCTION purged_tenants_are_gone();

CREATE FUNCTION purged_tenants_never_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_billing_state, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a tombstone stays as it is'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'purged_tenants_never_change';
END
$$;
CREATE TRIGGER purged_tenants_never_change BEFORE UPDATE OR DELETE ON purged_tenants
    FOR EACH ROW EXECUTE FUNCTION purged_tenants_never_change();

-- A tenant sees itself, and nothing of others.
ALTER TABLE billing_states ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_states FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON billing_states USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON billing_states FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
ALTER TABLE purged_tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE purged_tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON purged_tenants USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON purged_tenants FOR SELECT USING (current_setting('pulse.tenant', true) = '*');

-- Reasons, in operators' words, may name people; they go with their tenant. A row that was deleted or replaced stays in its page until
-- vacuum, and by default that waits until a fifth of the table is dead. Here one dead row is enough, so that it takes about a minute.
ALTER TABLE billing_states SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE audit_events SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);

-- What the statements need, and no more. Whose a state is, and who made it, stays as it was; a purge takes a tenant's chain with it;
-- a tombstone never goes.
GRANT SELECT, INSERT, DELETE, UPDATE (subscription_state, state, etag, revision, updated_at) ON billing_states TO pulse_billing_state;
GRANT SELECT, INSERT ON purged_tenants TO pulse_billing_state;
GRANT SELECT, INSERT, DELETE ON audit_events TO pulse_billing_state;
GRANT SELECT, INSERT, DELETE, UPDATE (sequence, hash) ON audit_heads TO pulse_billing_state;
GRANT SELECT, INSERT, DELETE ON changes TO pulse_billing_state;
GRANT SELECT, INSERT, UPDATE ON feed TO pulse_billing_state;
GRANT SELECT, INSERT, UPDATE, DELETE ON followers TO pulse_billing_state;
