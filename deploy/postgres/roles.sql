-- The roles and schemas of Pulse Hosted. Run once in each database, by a superuser or by whoever may create roles and schemas:
--
--     psql --single-transaction --set ON_ERROR_STOP=1 --file roles.sql "$ADMIN_DATABASE_URL"
--
-- It may be run again. A program that is allowed to does the same by itself at its first start.
--
-- Nobody logs in as these roles. A service takes its own right after it has connected, whoever it logged in as, so that it can
-- never do more than is granted here and in its migrations. Login users are yours to make, one for each service:
--
--     CREATE ROLE lifecycle_login LOGIN PASSWORD '…' IN ROLE pulse_lifecycle;
--     CREATE ROLE migrate_login   LOGIN PASSWORD '…' IN ROLE pulse_migrator;   -- for `pulse-<service> migrate` only

-- Several programs may start at once.
SELECT pg_advisory_xact_lock(hashtextextended('pulse/roles', 0));

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'pulse_migrator', 'pulse_lifecycle', 'pulse_provisioner', 'pulse_billing_state', 'pulse_signup_gateway'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Roles belong to the whole server: one that prepares another database was quicker.
                NULL;
            END;
        END IF;
        -- Whoever is no superuser takes these roles only as a member of them, since PostgreSQL 16 one who may do that.
        IF NOT pg_has_role(current_user, role,
            CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END
$$;

-- The migrator owns everything, and each service may use its own schema only. What it may do to each table in it is in its
-- migrations.
CREATE SCHEMA IF NOT EXISTS pulse_lifecycle AUTHORIZATION pulse_migrator;
CREATE SCHEMA IF NOT EXISTS pulse_provisioner AUTHORIZATION pulse_migrator;
CREATE SCHEMA IF NOT EXISTS pulse_billing_state AUTHORIZATION pulse_migrator;
CREATE SCHEMA IF NOT EXISTS pulse_signup_gateway AUTHORIZATION pulse_migrator;

GRANT USAGE ON SCHEMA pulse_lifecycle TO pulse_lifecycle;
GRANT USAGE ON SCHEMA pulse_provisioner TO pulse_provisioner;
GRANT USAGE ON SCHEMA pulse_billing_state TO pulse_billing_state;
GRANT USAGE ON SCHEMA pulse_signup_gateway TO pulse_signup_gateway;
