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

CREATE TABLE kinds (
    org_id TEXT NOT NULL,
    n      INTEGER NOT NULL,
    r      REAL,
    at     INTEGER,
    b      BLOB,
    t      TEXT,
    PRIMARY KEY (org_id, n)
) STRICT, WITHOUT ROWID;
