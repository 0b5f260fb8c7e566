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

-- A column of every kind.
CREATE TABLE kinds (
    org_id text COLLATE "C" NOT NULL,
    n      bigint NOT NULL,
    r      double precision,
    at     timestamptz,
    b      bytea,
    t      text,
    PRIMARY KEY (org_id, n)
);
ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
ALTER TABLE kinds FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON kinds USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON kinds FOR SELECT USING (current_setting('pulse.tenant', true) = '*');

-- Nothing is inserted one by one.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER kinds_refuse BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION refuse();

-- What is derived.
CREATE TABLE totals (total bigint NOT NULL);

GRANT SELECT, INSERT ON kinds TO pulse_lifecycle;
GRANT SELECT, INSERT, DELETE ON audit_events TO pulse_lifecycle;
GRANT UPDATE (details, salt) ON audit_events TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit_heads TO pulse_lifecycle;
