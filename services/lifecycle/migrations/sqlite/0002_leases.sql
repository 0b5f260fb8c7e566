-- Who does what only one process may do at a time. One process has this file to itself, so a lease is never fought for here; it
-- works as it does where there are several.
CREATE TABLE leases (
    name  TEXT    NOT NULL PRIMARY KEY,
    owner TEXT    NOT NULL CHECK (owner <> ''),
    token INTEGER NOT NULL CHECK (token >= 1),   -- grows whenever the lease is taken
    until INTEGER NOT NULL                       -- microseconds since the Unix epoch, UTC
) STRICT, WITHOUT ROWID;

CREATE TRIGGER leases_only_advance BEFORE UPDATE ON leases
WHEN NEW.name <> OLD.name OR NEW.token < OLD.token OR (NEW.owner <> OLD.owner AND NEW.token = OLD.token)
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: leases_only_advance');
END;

CREATE TRIGGER leases_stay BEFORE DELETE ON leases
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: leases_stay');
END;
