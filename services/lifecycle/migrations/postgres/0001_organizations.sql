-- Organizations, how they came to their status, what is left of those that are gone, this service's audit chains and its feed.
-- The owner is pulse_migrator; what the service may do with each table is at the end.
--
-- What the program decides is decided again here: a row that it should never write cannot be written. Functions name the schemas
-- that they look into, so that nobody can put a table of his own in the way of another.

-- The changes of status that there are; anything else is refused by `organizations_change_legally`.
CREATE TABLE legal_transitions (
    from_status text NOT NULL,
    to_status   text NOT NULL,
    CONSTRAINT legal_transitions_pkey PRIMARY KEY (from_status, to_status)
);

INSERT INTO legal_transitions (from_status, to_status) VALUES
    ('provisioning',     'active'),
    ('active',           'suspended'),
    ('suspended',        'active'),
    ('active',           'pending_deletion'),
    ('suspended',        'pending_deletion'),
    ('pending_deletion', 'active'),
    ('pending_deletion', 'suspended'),
    ('pending_deletion', 'purging');

CREATE TABLE organizations (
    id                    text        NOT NULL COLLATE "C",
    display_name          text        NOT NULL,
    owner_user_id         text,
    owner_email           text,                         -- as typed
    owner_email_canonical text        COLLATE "C",      -- as compared
    status                text        NOT NULL COLLATE "C",
    suspended_at          timestamptz,
    suspend_reason        text,
    deletion_requested_at timestamptz,
    retention_days        double precision,
    purge_after           timestamptz,
    purging_since         timestamptz,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    version               bigint      NOT NULL,
    CONSTRAINT organizations_pkey PRIMARY KEY (id),
    CONSTRAINT organizations_one_per_email UNIQUE (owner_email_canonical),
    -- Above all not '*', which stands for every tenant.
    CONSTRAINT organizations_id_is_well_formed CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT organizations_status_is_known
        CHECK (status IN ('provisioning', 'active', 'suspended', 'pending_deletion', 'purging')),
    CONSTRAINT organizations_retention_is_bounded CHECK (retention_days > 0 AND retention_days <= 3650),
    CONSTRAINT organizations_only_default_has_no_owner CHECK (
        (id = 'default') = (owner_user_id IS NULL)
        AND (owner_email IS NULL) = (owner_user_id IS NULL)
        AND (owner_email_canonical IS NULL) = (owner_user_id IS NULL)),
    CONSTRAINT organizations_default_stays_active CHECK (id <> 'default' OR status = 'active'),
    CONSTRAINT organizations_suspension_fits_status CHECK (
        CASE status WHEN 'suspended' THEN suspended_at IS NOT NULL
                    WHEN 'provisioning' THEN suspended_at IS NULL
                    WHEN 'active' THEN suspended_at IS NULL
                    ELSE true END
        AND (suspend_reason IS NULL OR suspended_at IS NOT NULL)),
    CONSTRAINT organizations_deletion_fits_status CHECK (
        (deletion_requested_at IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND (retention_days IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND (purge_after IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND purge_after > deletion_requested_at),
    CONSTRAINT organizations_purge_fits_status CHECK (
        (purging_since IS NOT NULL) = (status = 'purging') AND purging_since >= purge_after),
    -- No instant that the program knows is 'infinity'.
    CONSTRAINT organizations_times_are_finite CHECK (
        isfinite(created_at) AND isfinite(updated_at) AND isfinite(suspended_at) AND isfinite(deletion_requested_at)
        AND isfinite(purge_after) AND isfinite(purging_since))
);

CREATE INDEX organizations_by_status ON organizations (status, id);
CREATE INDEX organizations_due ON organizations (purge_after, id) WHERE status = 'pending_deletion';
CREATE INDEX organizations_purging ON organizations (purging_since, id) WHERE status = 'purging';

-- The way of each organization through the statuses. That each step is a legal one is checked by a trigger: a foreign key would
-- lock the few rows of legal_transitions in every transaction, and make them the busiest ones that there are.
CREATE TABLE status_history (
    org_id      text        NOT NULL COLLATE "C",
    version     bigint      NOT NULL,
    from_status text        COLLATE "C",
    to_status   text        NOT NULL COLLATE "C",
    at          timestamptz NOT NULL,
    CONSTRAINT status_history_pkey PRIMARY KEY (org_id, version),
    CONSTRAINT status_history_of_organizations FOREIGN KEY (org_id) REFERENCES organizations (id) ON DELETE CASCADE
);

-- Ids that are never used again.
CREATE TABLE tombstones (
    org_id     text        NOT NULL COLLATE "C",
    kind       text        NOT NULL,
    removed_at timestamptz NOT NULL,
    CONSTRAINT tombstones_pkey PRIMARY KEY (org_id),
    CONSTRAINT tombstones_id_is_well_formed CHECK (org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT tombstones_kind_is_known CHECK (kind IN ('abandoned', 'purged'))
);

-- How many tenants are in each status, so that nobody has to count them. `default` is not a tenant. Each organization is counted
-- in one of 16 rows, by a hash of its id, so that those who change different ones seldom meet; the sum is what counts.
CREATE TABLE status_counts (
    shard            integer NOT NULL,
    provisioning     bigint  NOT NULL DEFAULT 0,
    active           bigint  NOT NULL DEFAULT 0,
    suspended        bigint  NOT NULL DEFAULT 0,
    pending_deletion bigint  NOT NULL DEFAULT 0,
    purging          bigint  NOT NULL DEFAULT 0,
    CONSTRAINT status_counts_pkey PRIMARY KEY (shard),
    CONSTRAINT status_counts_sixteen_shards CHECK (shard BETWEEN 0 AND 15),
    CONSTRAINT status_counts_are_counts CHECK (
        provisioning >= 0 AND active >= 0 AND suspended >= 0 AND pending_deletion >= 0 AND purging >= 0)
);

INSERT INTO status_counts (shard) SELECT generate_series(0, 15);

-- Who does what only one replica may do at a time.
CREATE TABLE leases (
    name  text        NOT NULL,
    owner text        NOT NULL,
    token bigint      NOT NULL,                         -- grows whenever the lease is taken
    until timestamptz NOT NULL,
    CONSTRAINT leases_pkey PRIMARY KEY (name),
    CONSTRAINT leases_owner_is_named CHECK (owner <> ''),
    CONSTRAINT leases_token_begins_at_one CHECK (token >= 1)
);

CREATE FUNCTION organizations_begin_legally() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_lifecycle, pg_temp AS $$
BEGIN
    IF NEW.version <> 1 OR NEW.status <> (CASE NEW.id WHEN 'default' THEN 'active' ELSE 'provisioning' END) THEN
        RAISE EXCEPTION 'an organization begins at version 1 and in provisioning'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'organizations_begin_legally';
    END IF;
    IF EXISTS (SELECT FROM tombstones WHERE org_id = NEW.id) THEN
        RAISE EXCEPTION 'the id of an organization that is gone is never used again'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tombstones_bar_ids';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER organizations_begin_legally BEFORE INSERT ON organizations
    FOR EACH ROW EXECUTE FUNCTION organizations_begin_legally();

CREATE FUNCTION organizations_change_legally() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_lifecycle, pg_temp AS $$
BEGIN
    IF NEW.id <> OLD.id OR NEW.created_at <> OLD.created_at OR NEW.version <> OLD.version + 1
        OR (NEW.status <> OLD.status AND NOT EXISTS (
            SELECT FROM legal_transitions WHERE from_status = OLD.status AND to_status = NEW.status))
        -- Deleting, restoring and purging leave a suspension as it is.
        OR ((NEW.suspended_at, NEW.suspend_reason) IS DISTINCT FROM (OLD.suspended_at, OLD.suspend_reason)
            AND NOT (OLD.status IN ('active', 'suspended') AND NEW.status IN ('active', 'suspended')))
        -- What is being purged was promised this much time.
        OR (OLD.status = 'pending_deletion' AND NEW.status = 'purging' AND NEW.purge_after <> OLD.purge_after)
    THEN
        RAISE EXCEPTION 'the organization cannot change from % to % like this', OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'organizations_change_legally';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER organizations_change_legally BEFORE UPDATE ON organizations
    FOR EACH ROW EXECUTE FUNCTION organizations_change_legally();

CREATE FUNCTION organizations_end_legally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an organization in % is not removed', OLD.status
        USING ERRCODE = 'check_violation', CONSTRAINT = 'organizations_end_legally';
END
$$;
CREATE TRIGGER organizations_end_legally BEFORE DELETE ON organizations
    FOR EACH ROW WHEN (OLD.status NOT IN ('provisioning', 'purging')) EXECUTE FUNCTION organizations_end_legally();

CREATE FUNCTION tombstones_follow_removal() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_lifecycle, pg_temp AS $$
BEGIN
    IF NEW.org_id = 'default' OR EXISTS (SELECT FROM organizations WHERE id = NEW.org_id) THEN
        RAISE EXCEPTION 'a tombstone comes after the organization'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tombstones_follow_removal';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER tombstones_follow_removal BEFORE INSERT ON tombstones
    FOR EACH ROW EXECUTE FUNCTION tombstones_follow_removal();

CREATE FUNCTION tombstones_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a tombstone stays as it is'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'tombstones_stay';
END
$$;
CREATE TRIGGER tombstones_stay BEFORE UPDATE OR DELETE ON tombstones
    FOR EACH ROW EXECUTE FUNCTION tombstones_stay();

CREATE FUNCTION status_history_is_legal() RETURNS trigger LANGUAGE plpgsql SET search_path = pulse_lifecycle, pg_temp AS $$
BEGIN
    IF NEW.from_status IS NOT NULL AND NOT EXISTS (
        SELECT FROM legal_transitions WHERE from_status = NEW.from_status AND to_status = NEW.to_status)
    THEN
        RAISE EXCEPTION 'there is no way from % to %', NEW.from_status, NEW.to_status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'status_history_is_legal';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER status_history_is_legal BEFORE INSERT OR UPDATE ON status_history
    FOR EACH ROW EXECUTE FUNCTION status_history_is_legal();

CREATE FUNCTION leases_only_advance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name <> OLD.name OR NEW.token < OLD.token OR (NEW.owner <> OLD.owner AND NEW.token = OLD.token) THEN
        RAISE EXCEPTION 'a lease changes hands by a greater token only'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'leases_only_advance';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER leases_only_advance BEFORE UPDATE ON leases
    FOR EACH ROW EXECUTE FUNCTION leases_only_advance();

-- What follows from a change is written by the owner's rights: the service has none to do it by itself, or otherwise.
CREATE FUNCTION organizations_record() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pulse_lifecycle, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO status_history (org_id, version, from_status, to_status, at)
        VALUES (NEW.id, NEW.version, NULL, NEW.status, NEW.created_at);
    ELSE
        INSERT INTO status_history (org_id, version, from_status, to_status, at)
        VALUES (NEW.id, NEW.version, OLD.status, NEW.status, NEW.updated_at);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER organizations_record_creation AFTER INSERT ON organizations
    FOR EACH ROW EXECUTE FUNCTION organizations_record();
CREATE TRIGGER organizations_record_change AFTER UPDATE ON organizations
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION organizations_record();

-- In which row an organization is counted. The same on every server and version, which PostgreSQL's own hashes need not be.
CREATE FUNCTION shard_of(org_id text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN get_byte(sha256(convert_to(org_id, 'UTF8')), 0) & 15;

CREATE FUNCTION organizations_count() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pulse_lifecycle, pg_temp AS $$
DECLARE
    org text := coalesce(NEW.id, OLD.id);
    was text := coalesce(OLD.status, '');
    became text := coalesce(NEW.status, '');
BEGIN
    IF org <> 'default' THEN
        UPDATE status_counts SET
            provisioning = provisioning + (became = 'provisioning')::integer - (was = 'provisioning')::integer,
            active = active + (became = 'active')::integer - (was = 'active')::integer,
            suspended = suspended + (became = 'suspended')::integer - (was = 'suspended')::integer,
            pending_deletion = pending_deletion + (became = 'pending_deletion')::integer - (was = 'pending_deletion')::integer,
            purging = purging + (became = 'purging')::integer - (was = 'purging')::integer
        WHERE shard = shard_of(org);
    END IF;
    RETURN NULL;
END
$$;
-- At the end of the transaction, so that whoever changes another organization of the same row waits for a commit and not for all
-- that comes before it, and holds nothing that others wait for in turn.
CREATE CONSTRAINT TRIGGER organizations_count AFTER INSERT OR UPDATE OR DELETE ON organizations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION organizations_count();

-- Counts from the start, where rows came in while the triggers were off. Nobody changes an organization meanwhile.
CREATE FUNCTION count_tenants_anew() RETURNS void
    LANGUAGE plpgsql SET search_path = pulse_lifecycle, pg_temp AS $$
DECLARE
    tenant text := current_setting('pulse.tenant', true);
BEGIN
    LOCK TABLE organizations IN SHARE ROW EXCLUSIVE MODE;
    PERFORM set_config('pulse.tenant', '*', true);
    UPDATE status_counts SET
        provisioning = coalesce(counted.provisioning, 0),
        active = coalesce(counted.active, 0),
        suspended = coalesce(counted.suspended, 0),
        pending_deletion = coalesce(counted.pending_deletion, 0),
        purging = coalesce(counted.purging, 0)
    FROM generate_series(0, 15) AS shards (shard)
    LEFT JOIN (
        SELECT shard_of(id) AS shard,
            count(*) FILTER (WHERE status = 'provisioning') AS provisioning,
            count(*) FILTER (WHERE status = 'active') AS active,
            count(*) FILTER (WHERE status = 'suspended') AS suspended,
            count(*) FILTER (WHERE status = 'pending_deletion') AS pending_deletion,
            count(*) FILTER (WHERE status = 'purging') AS purging
        FROM organizations WHERE id <> 'default' GROUP BY 1
    ) AS counted USING (shard)
    WHERE status_counts.shard = shards.shard;
    PERFORM set_config('pulse.tenant', coalesce(tenant, ''), true);
END
$$;

-- A function that acts by its owner's rights is a trigger of these tables, and of none that somebody else makes.
REVOKE EXECUTE ON FUNCTION organizations_record(), organizations_count(), count_tenants_anew() FROM PUBLIC;

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

-- A tenant sees itself, and nothing of others; what lists or counts sees every tenant and changes none.
-- The setting is read in a subquery: that is done once a statement rather than for each row, and the planner takes it for as
-- likely as not. Compared as it is, it would expect one row in 200 to be seen, also where all are, and plan for that.
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON organizations USING (id = (SELECT current_setting('pulse.tenant', true)));
CREATE POLICY every_tenant ON organizations FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));
ALTER TABLE status_history ENABLE ROW LEVEL SECURITY;
ALTER TABLE status_history FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON status_history USING (org_id = (SELECT current_setting('pulse.tenant', true)));
CREATE POLICY every_tenant ON status_history FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));
ALTER TABLE tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON tombstones USING (org_id = (SELECT current_setting('pulse.tenant', true)));
CREATE POLICY every_tenant ON tombstones FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));

-- A row that was deleted or replaced stays in its page until vacuum, names and addresses included, and by default that waits
-- until a fifth of the table is dead. Here one dead row is enough, so that it takes about a minute (autovacuum_naptime), and
-- the indexes are cleaned each time, as one holds addresses too. What was vacuumed is out of reach of every query; its bytes
-- may stay on the disk until the room is used again, and in the log and in backups for as long as those are kept.
ALTER TABLE organizations SET
    (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, vacuum_index_cleanup = on);
-- Records hold addresses and operators' words until they are erased; these settings hold for what is stored out of line too.
ALTER TABLE audit_events SET
    (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);

-- What the statements need, and no more. Whose an organization is, and since when, stays as it was; its history and the counts
-- follow from its changes; an audit record changes only by erasure, and neither it nor a tombstone ever goes.
GRANT SELECT ON legal_transitions, status_history, status_counts TO pulse_lifecycle;
GRANT SELECT, INSERT, DELETE, UPDATE (
    status, suspended_at, suspend_reason, deletion_requested_at, retention_days, purge_after, purging_since, updated_at, version
) ON organizations TO pulse_lifecycle;
GRANT SELECT, INSERT ON tombstones TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE (owner, token, until) ON leases TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE (details, salt) ON audit_events TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE (sequence, hash) ON audit_heads TO pulse_lifecycle;
GRANT SELECT, INSERT, DELETE ON changes TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE ON feed TO pulse_lifecycle;
GRANT SELECT, INSERT, UPDATE, DELETE ON followers TO pulse_lifecycle;
