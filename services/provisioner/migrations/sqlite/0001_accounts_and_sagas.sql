-- Accounts, their places in tenants, the journal of the sagas, and this service's audit chains.
-- Times are whole microseconds since the Unix epoch, UTC.

CREATE TABLE accounts (
    user_id         TEXT    NOT NULL PRIMARY KEY,
    home_org_id     TEXT    NOT NULL CHECK (home_org_id <> ''),
    email           TEXT    NOT NULL,               -- as typed
    email_canonical TEXT    NOT NULL UNIQUE,        -- one account an address
    password_hash   TEXT    NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX accounts_by_home ON accounts (home_org_id);

-- One row for each role of an account in a tenant.
CREATE TABLE memberships (
    org_id  TEXT NOT NULL CHECK (org_id <> ''),
    user_id TEXT NOT NULL REFERENCES accounts (user_id) ON DELETE CASCADE,
    role    TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    PRIMARY KEY (org_id, user_id, role)
) STRICT, WITHOUT ROWID;

CREATE INDEX memberships_by_user ON memberships (user_id);

CREATE TABLE sagas (
    org_id                TEXT    NOT NULL CHECK (org_id <> ''),
    kind                  TEXT    NOT NULL CHECK (kind IN ('provision', 'purge')),
    state                 TEXT    NOT NULL CHECK (state IN ('running', 'compensating', 'done', 'undone', 'stuck')),
    step                  TEXT,
    direction             TEXT    CHECK (direction IN ('forward', 'backward')),
    attempts              INTEGER NOT NULL CHECK (attempts >= 0),
    next_attempt_at       INTEGER,
    cause_reason          TEXT,
    cause_message         TEXT,
    failure_reason        TEXT,
    failure_message       TEXT,
    version               INTEGER NOT NULL CHECK (version >= 1),
    lease_owner           TEXT,
    lease_until           INTEGER,
    -- What the provisioning needs until it has ended; nothing personal stays in the journal.
    owner_user_id         TEXT,
    owner_email           TEXT,
    owner_email_canonical TEXT,
    password_hash         TEXT,
    org_name              TEXT,
    trial_ends_at         INTEGER,
    created_at            INTEGER NOT NULL,
    updated_at            INTEGER NOT NULL,
    PRIMARY KEY (org_id, kind),
    -- A step belongs to its saga, and is there exactly until the saga has ended.
    CHECK ((step IS NULL) = (state IN ('done', 'undone'))),
    CHECK (step IS NULL
        OR (kind = 'provision' AND step IN ('create_organization', 'insert_account', 'start_trial', 'activate_organization'))
        OR (kind = 'purge' AND step IN ('purge_billing_state', 'delete_accounts', 'finish_purge'))),
    CHECK ((direction IS NOT NULL) = (state = 'stuck')),
    -- A purge is never undone, and its row goes when it is done.
    CHECK (kind = 'provision' OR state IN ('running', 'stuck')),
    CHECK (kind = 'provision' OR direction IS NULL OR direction = 'forward'),
    CHECK (kind = 'purge' OR direction IS NULL OR direction = 'backward'),
    -- What runs has a next try; what has ended has none.
    CHECK (state NOT IN ('running', 'compensating') OR next_attempt_at IS NOT NULL),
    CHECK (state NOT IN ('done', 'undone') OR next_attempt_at IS NULL),
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CHECK (state NOT IN ('done', 'undone') OR lease_owner IS NULL),
    CHECK ((cause_reason IS NULL) = (cause_message IS NULL)),
    CHECK ((failure_reason IS NULL) = (failure_message IS NULL)),
    -- What is being undone, or was, has a cause.
    CHECK ((cause_reason IS NOT NULL) = (state IN ('compensating', 'undone') OR direction IS 'backward')),
    -- The claim on an address: all of it while a provisioning goes on, none of it before or after.
    CHECK ((kind = 'provision') = (owner_user_id IS NOT NULL)),
    CHECK ((owner_email_canonical IS NOT NULL) = (kind = 'provision' AND state NOT IN ('done', 'undone'))),
    CHECK ((owner_email IS NULL) = (owner_email_canonical IS NULL)),
    CHECK ((password_hash IS NULL) = (owner_email_canonical IS NULL)),
    CHECK ((org_name IS NULL) = (owner_email_canonical IS NULL))
) STRICT;

-- One provisioning an address, however many ask at once.
CREATE UNIQUE INDEX sagas_by_owner_email ON sagas (owner_email_canonical) WHERE owner_email_canonical IS NOT NULL;
CREATE INDEX sagas_due ON sagas (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX sagas_stuck ON sagas (state) WHERE state = 'stuck';
CREATE INDEX sagas_by_age ON sagas (created_at, org_id, kind);

CREATE TABLE audit_events (
    org_id        TEXT    NOT NULL,
    sequence      INTEGER NOT NULL CHECK (sequence >= 1),
    occurred_at   INTEGER NOT NULL,             -- microseconds since the Unix epoch, UTC
    actor         TEXT    NOT NULL CHECK (actor <> ''),
    action        TEXT    NOT NULL CHECK (action <> ''),
    details       TEXT    CHECK (json_valid(details)),
    salt          BLOB    CHECK (length(salt) = 16),
    details_hash  BLOB    NOT NULL CHECK (length(details_hash) = 32),
    previous_hash BLOB    NOT NULL CHECK (length(previous_hash) = 32),
    hash          BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (org_id, sequence),
    CHECK ((details IS NULL) = (salt IS NULL))  -- erased together
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    org_id   TEXT    NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_events_change_only_by_erasure BEFORE UPDATE ON audit_events
WHEN NEW.details IS NOT NULL OR NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence
  OR NEW.occurred_at <> OLD.occurred_at OR NEW.actor <> OLD.actor OR NEW.action <> OLD.action
  OR NEW.details_hash <> OLD.details_hash OR NEW.previous_hash <> OLD.previous_hash OR NEW.hash <> OLD.hash
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: audit_events_change_only_by_erasure');
END;

CREATE TRIGGER audit_heads_only_advance BEFORE UPDATE ON audit_heads
WHEN NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence + 1
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: audit_heads_only_advance');
END;
