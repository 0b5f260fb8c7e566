CREATE TABLE things (
    org_id text NOT NULL COLLATE "C",
    name   text NOT NULL CONSTRAINT things_have_their_own_name UNIQUE,
    count  bigint NOT NULL DEFAULT 0
);
ALTER TABLE things ENABLE ROW LEVEL SECURITY;
ALTER TABLE things FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON things USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON things FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
GRANT SELECT, INSERT, UPDATE, DELETE ON things TO pulse_lifecycle;

-- Counts what rollbacks do not undo.
CREATE SEQUENCE tries;
GRANT USAGE ON tries TO pulse_lifecycle;

-- A commit that takes as long as somebody holds the lock, and then happens or not.
CREATE TABLE commits (org_id text NOT NULL, happens boolean NOT NULL);
GRANT SELECT, INSERT ON commits TO pulse_lifecycle;
CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(42);
    IF NOT NEW.happens THEN
        RAISE EXCEPTION 'this commit does not happen' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER commits_slowly AFTER INSERT ON commits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION commit_slowly();
