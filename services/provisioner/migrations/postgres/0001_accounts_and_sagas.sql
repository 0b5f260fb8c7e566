-- Accounts, their places in tenants, the journal of the sagas, and this service's audit chains.
-- The owner is pulse_migrator; what the service may do with each table is at the end.

CREATE TABLE accounts (
    user_id         text        NOT NULL COLLATE "C",
    home_org_id     text        NOT NULL COLLATE "C",
    email           text        NOT NULL,               -- as typed
    email_canonical text        NOT NULL COLLATE "C",
    password_hash   text        NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT accounts_pkey PRIMARY KEY (user_id),
    CONSTRAINT accounts_one_per_email UNIQUE (email_canonical),
    -- Above all not '*', which stands for every tenant.
    CONSTRAINT accounts_home_is_an_id CHECK (home_org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT accounts_password_is_hashed CHECK (starts_with(password_hash, '$argon2id$'))
);

CREATE INDEX accounts_by_home ON accounts (home_org_id);

-- One row for each role of an account in a tenant.
CREATE TABLE memberships (
    org_id  text NOT NULL COLLATE "C",
    user_id text NOT NULL COLLATE "C",
    role    text NOT NULL,
    CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id, role),
    CONSTRAINT memberships_org_is_an_id CHECK (org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT memberships_role_is_known CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    -- No cascade: it would change other tenants' rows behind row-level security, and leave no record there. Whoever deletes an
    -- account defers the check, so that the deletion keeps new places from being given while it removes those that are there.
    CONSTRAINT memberships_of_accounts FOREIGN KEY (user_id) REFERENCES accounts (user_id)
        DEFERRABLE INITIALLY IMMEDIATE
);

CREATE INDEX memberships_by_user ON memberships (user_id);

CREATE TABLE sagas (
    org_id                text        NOT NULL COLLATE "C",
    kind                  text        NOT NULL COLLATE "C",
    state                 text        NOT NULL COLLATE "C",
    step                  text,
    direction             text,
    attempts              integer     NOT NULL,
    next_attempt_at       timestamptz,
    cause_reason          text,
    cause_message         text,
    failure_reason        text,
    failure_message       text,
    version               bigint      NOT NULL,
    lease_owner           text,
    lease_until           timestamptz,
    -- What the provisioning needs until it has ended; nothing personal stays in the journal.
    owner_user_id         text,
    owner_email           text,
    owner_email_canonical text        COLLATE "C",
    password_hash         text,
    org_name              text,
    trial_ends_at         timestamptz,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    CONSTRAINT sagas_pkey PRIMARY KEY (org_id, kind),
    CONSTRAINT sagas_org_is_an_id CHECK (org_id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    CONSTRAINT sagas_kind_is_known CHECK (kind IN ('provision', 'purge')),
    CONSTRAINT sagas_state_is_known CHECK (state IN ('running', 'compensating', 'done', 'undone', 'stuck')),
    CONSTRAINT sagas_direction_is_known CHECK (direction IN ('forward', 'backward')),
    CONSTRAINT sagas_attempts_are_counted CHECK (attempts >= 0),
    CONSTRAINT sagas_version_begins_at_one CHECK (version >= 1),
    -- A step belongs to its saga, and is there exactly until the saga has ended.
    CONSTRAINT sagas_step_until_ended CHECK ((step IS NULL) = (state IN ('done', 'undone'))),
    CONSTRAINT sagas_step_of_its_kind CHECK (step IS NULL
        OR (kind = 'provision' AND step IN ('create_organization', 'insert_account', 'start_trial', 'activate_organization'))
        OR (kind = 'purge' AND step IN ('purge_billing_state', 'delete_accounts', 'finish_purge'))),
    CONSTRAINT sagas_direction_when_stuck CHECK ((direction IS NOT NULL) = (state = 'stuck')),
    -- A purge is never undone, and its row goes when it is done.
    CONSTRAINT sagas_purge_is_never_undone CHECK (kind = 'provision' OR state IN ('running', 'stuck')),
    CONSTRAINT sagas_direction_of_its_kind CHECK (direction IS NULL
        OR direction = CASE kind WHEN 'provision' THEN 'backward' ELSE 'forward' END),
    -- What runs has a next try; what has ended has none.
    CONSTRAINT sagas_running_is_tried CHECK (state NOT IN ('running', 'compensating') OR next_attempt_at IS NOT NULL),
    CONSTRAINT sagas_ended_is_not_tried CHECK (state NOT IN ('done', 'undone') OR next_attempt_at IS NULL),
    CONSTRAINT sagas_lease_is_whole CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT sagas_ended_is_not_leased CHECK (state NOT IN ('done', 'undone') OR lease_owner IS NULL),
    CONSTRAINT sagas_cause_is_whole CHECK ((cause_reason IS NULL) = (cause_message IS NULL)),
    CONSTRAINT sagas_failure_is_whole CHECK ((failure_reason IS NULL) = (failure_message IS NULL)),
    -- What is being undone, or was, has a cause.
    CONSTRAINT sagas_undone_for_a_cause CHECK ((cause_reason IS NOT NULL)
        = (state IN ('compensating', 'undone') OR direction IS NOT DISTINCT FROM 'backward')),
    -- The claim on an address: all of it while a provisioning goes on, none of it before or after.
    CONSTRAINT sagas_provision_has_an_owner CHECK ((kind = 'provision') = (owner_user_id IS NOT NULL)),
    CONSTRAINT sagas_claim_until_ended CHECK ((owner_email_canonical IS NOT NULL)
        = (kind = 'provision' AND state NOT IN ('done', 'undone'))),
    CONSTRAINT sagas_claim_is_whole CHECK ((owner_email_canonical IS NULL) = (owner_email IS NULL)
        AND (owner_email_canonical IS NULL) = (password_hash IS NULL)
        AND (owner_email_canonical IS NULL) = (org_name IS NULL)),
    CONSTRAINT sagas_password_is_hashed CHECK (starts_with(password_hash, '$argon2id$'))
);

-- One provisioning an address, however many ask at once.
CREATE UNIQUE INDEX sagas_one_per_email ON sagas (owner_email_canonical) WHERE owner_email_canonical IS NOT NULL;
-- From when on anyone may take it up: its next try is due, and no lease is in the way.
CREATE INDEX sagas_due ON sagas (greatest(next_attempt_at, lease_until)) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX sagas_by_age ON sagas (created_at, org_id, kind);
-- Nearly every saga is a provisioning that is done; the lists of others would search long among those.
CREATE INDEX sagas_not_done ON sagas (state, created_at, org_id, kind) WHERE state <> 'done';
CREATE INDEX sagas_purges ON sagas (created_at, org_id, kind) WHERE kind = 'purge';

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

-- A tenant sees itself, and nothing of others; what looks for an address or for due sagas sees every tenant and changes none.
-- The setting is read in a subquery: that is done once a statement rather than for each row, and the planner takes it for as
-- likely as not. Compared as it is, it would expect one row in 200 to be seen, also where all are, and plan for that.
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON accounts USING (home_org_id = (SELECT current_setting('pulse.tenant', true)));
-- An account that has a role in a tenant is seen there too.
CREATE POLICY guests ON accounts FOR SELECT USING (EXISTS (
    SELECT FROM memberships
    WHERE memberships.org_id = (SELECT current_setting('pulse.tenant', true)) AND memberships.user_id = accounts.user_id
));
CREATE POLICY every_tenant ON accounts FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON memberships USING (org_id = (SELECT current_setting('pulse.tenant', true)));
CREATE POLICY every_tenant ON memberships FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));
ALTER TABLE sagas ENABLE ROW LEVEL SECURITY;
ALTER TABLE sagas FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON sagas USING (org_id = (SELECT current_setting('pulse.tenant', true)));
CREATE POLICY every_tenant ON sagas FOR SELECT USING ((SELECT current_setting('pulse.tenant', true) = '*'));

-- A row that was deleted or replaced stays in its page until vacuum, addresses and hashes included, and by default that waits
-- until a fifth of the table is dead. Here one dead row is enough, so that it takes about a minute (autovacuum_naptime), and
-- the indexes are cleaned each time, as one holds addresses too. What was vacuumed is out of reach of every query; its bytes
-- may stay on the disk until the room is used again, and in the log and in backups for as long as those are kept.
ALTER TABLE accounts SET
    (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, vacuum_index_cleanup = on);
ALTER TABLE sagas SET
    (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, vacuum_index_cleanup = on);
-- Reasons, in operators' words, may name people; they go with their tenant.
ALTER TABLE audit_events SET
    (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);

-- What the statements need, and no more. Accounts and roles are made and deleted, never changed; who and what a saga is about
-- stays as it was; an audit record goes only with its tenant's whole chain.
GRANT SELECT, INSERT, DELETE ON accounts, memberships TO pulse_provisioner;
GRANT SELECT, INSERT, DELETE ON sagas TO pulse_provisioner;
GRANT UPDATE (
    state, step, direction, attempts, next_attempt_at, cause_reason, cause_message, failure_reason, failure_message,
    version, lease_owner, lease_until, owner_email, owner_email_canonical, password_hash, org_name, trial_ends_at, updated_at
) ON sagas TO pulse_provisioner;
GRANT SELECT, INSERT, DELETE ON audit_events TO pulse_provisioner;
GRANT SELECT, INSERT, DELETE, UPDATE (sequence, hash) ON audit_heads TO pulse_provisioner;
