-- Organizations, how they came to their status, and what is left of those that are gone.
-- Times are microseconds since the Unix epoch, UTC.
--
-- What the program decides is decided again here: a row that it should never write cannot be written.

-- The changes of status that there are; anything else is refused by `organizations_change_legally`.
CREATE TABLE legal_transitions (
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    PRIMARY KEY (from_status, to_status)
) STRICT, WITHOUT ROWID;

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
    id                    TEXT    NOT NULL PRIMARY KEY
        CONSTRAINT id_is_well_formed
        CHECK (length(id) BETWEEN 1 AND 64 AND id NOT GLOB '*[^a-z0-9-]*' AND id NOT GLOB '-*'),
    display_name          TEXT    NOT NULL,
    owner_user_id         TEXT,
    owner_email           TEXT,                 -- as typed
    owner_email_canonical TEXT,                 -- as compared
    status                TEXT    NOT NULL
        CONSTRAINT status_is_known
        CHECK (status IN ('provisioning', 'active', 'suspended', 'pending_deletion', 'purging')),
    suspended_at          INTEGER,
    suspend_reason        TEXT,
    deletion_requested_at INTEGER,
    retention_days        REAL
        CONSTRAINT retention_is_bounded CHECK (retention_days > 0 AND retention_days <= 3650),
    purge_after           INTEGER,
    purging_since         INTEGER,
    created_at            INTEGER NOT NULL,
    updated_at            INTEGER NOT NULL,
    version               INTEGER NOT NULL,

    CONSTRAINT only_default_has_no_owner CHECK (
        (id = 'default') = (owner_user_id IS NULL)
        AND (owner_email IS NULL) = (owner_user_id IS NULL)
        AND (owner_email_canonical IS NULL) = (owner_user_id IS NULL)),
    CONSTRAINT default_stays_active CHECK (id <> 'default' OR status = 'active'),
    CONSTRAINT suspension_fits_status CHECK (
        CASE status WHEN 'suspended' THEN suspended_at IS NOT NULL
                    WHEN 'provisioning' THEN suspended_at IS NULL
                    WHEN 'active' THEN suspended_at IS NULL
                    ELSE TRUE END
        AND (suspend_reason IS NULL OR suspended_at IS NOT NULL)),
    CONSTRAINT deletion_fits_status CHECK (
        (deletion_requested_at IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND (retention_days IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND (purge_after IS NOT NULL) = (status IN ('pending_deletion', 'purging'))
        AND purge_after > deletion_requested_at),
    CONSTRAINT purge_fits_status CHECK (
        (purging_since IS NOT NULL) = (status = 'purging') AND purging_since >= purge_after)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX organizations_one_per_email ON organizations (owner_email_canonical);
CREATE INDEX organizations_by_status ON organizations (status, id);
CREATE INDEX organizations_due ON organizations (purge_after, id) WHERE status = 'pending_deletion';
CREATE INDEX organizations_purging ON organizations (purging_since, id) WHERE status = 'purging';

-- The way of each organization through the statuses.
CREATE TABLE status_history (
    org_id      TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    version     INTEGER NOT NULL,
    from_status TEXT,
    to_status   TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (org_id, version),
    FOREIGN KEY (from_status, to_status) REFERENCES legal_transitions (from_status, to_status)
) STRICT, WITHOUT ROWID;

-- Ids that are never used again.
CREATE TABLE tombstones (
    org_id     TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL CHECK (kind IN ('abandoned', 'purged')),
    removed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many tenants are in each status, so that nobody has to count them. `default` is not a tenant.
CREATE TABLE status_counts (
    status  TEXT    NOT NULL PRIMARY KEY,
    tenants INTEGER NOT NULL CHECK (tenants >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO status_counts (status, tenants) VALUES
    ('provisioning', 0), ('active', 0), ('suspended', 0), ('pending_deletion', 0), ('purging', 0);

CREATE TRIGGER organizations_begin_legally BEFORE INSERT ON organizations
WHEN NEW.version <> 1 OR NEW.status <> CASE NEW.id WHEN 'default' THEN 'active' ELSE 'provisioning' END
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: organizations_begin_legally');
END;

CREATE TRIGGER tombstones_bar_ids BEFORE INSERT ON organizations
WHEN EXISTS (SELECT 1 FROM tombstones WHERE org_id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: tombstones_bar_ids');
END;

CREATE TRIGGER organizations_change_legally BEFORE UPDATE ON organizations
WHEN NEW.id <> OLD.id OR NEW.created_at <> OLD.created_at OR NEW.version <> OLD.version + 1
  OR (NEW.status <> OLD.status AND NOT EXISTS (
        SELECT 1 FROM legal_transitions WHERE from_status = OLD.status AND to_status = NEW.status))
  -- Deleting, restoring and purging leave a suspension as it is.
  OR ((NEW.suspended_at IS NOT OLD.suspended_at OR NEW.suspend_reason IS NOT OLD.suspend_reason)
      AND NOT (OLD.status IN ('active', 'suspended') AND NEW.status IN ('active', 'suspended')))
  -- What is being purged was promised this much time.
  OR (OLD.status = 'pending_deletion' AND NEW.status = 'purging' AND NEW.purge_after <> OLD.purge_after)
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: organizations_change_legally');
END;

CREATE TRIGGER organizations_end_legally BEFORE DELETE ON organizations
WHEN OLD.status NOT IN ('provisioning', 'purging')
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: organizations_end_legally');
END;

CREATE TRIGGER tombstones_follow_removal BEFORE INSERT ON tombstones
WHEN NEW.org_id = 'default' OR EXISTS (SELECT 1 FROM organizations WHERE id = NEW.org_id)
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: tombstones_follow_removal');
END;

CREATE TRIGGER tombstones_do_not_change BEFORE UPDATE ON tombstones
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: tombstones_do_not_change');
END;

CREATE TRIGGER tombstones_stay BEFORE DELETE ON tombstones
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: tombstones_stay');
END;

CREATE TRIGGER organizations_record_creation AFTER INSERT ON organizations
BEGIN
    INSERT INTO status_history (org_id, version, from_status, to_status, at)
    VALUES (NEW.id, NEW.version, NULL, NEW.status, NEW.created_at);
    UPDATE status_counts SET tenants = tenants + 1 WHERE status = NEW.status AND NEW.id <> 'default';
END;

CREATE TRIGGER organizations_record_change AFTER UPDATE ON organizations WHEN NEW.status <> OLD.status
BEGIN
    INSERT INTO status_history (org_id, version, from_status, to_status, at)
    VALUES (NEW.id, NEW.version, OLD.status, NEW.status, NEW.updated_at);
    UPDATE status_counts SET tenants = tenants - 1 WHERE status = OLD.status;
    UPDATE status_counts SET tenants = tenants + 1 WHERE status = NEW.status;
END;

CREATE TRIGGER organizations_record_removal AFTER DELETE ON organizations
BEGIN
    UPDATE status_counts SET tenants = tenants - 1 WHERE status = OLD.status;
END;

-- The audit chain, as in shared/store/src/audit/sqlite.rs.
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
