//! What the service's role can do at all: what its statements need, and nothing else.

use super::*;
use crate::store::conformance;

/// A user who may log in and be the service, and is nothing else.
async fn login(database: &Database) -> String {
    let name = format!("login_{}", database.name());
    let mut conn = database.connect().await;
    run(&mut conn, &format!("CREATE ROLE {name} LOGIN IN ROLE pulse_lifecycle")).await.unwrap();
    let url = database.url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, at) = rest.split_once('@').unwrap();
    format!("{scheme}://{name}@{at}")
}

#[tokio::test]
async fn the_service_needs_no_more_than_its_role() {
    let (_store, database) = open().await;
    let store = replica_by(login(&database).await, 10).await;
    one_of_each(&store).await;
    conformance::a_removal_leaves_a_tombstone_and_frees_the_email(&store).await;
    conformance::an_unknown_id_can_be_barred(&store).await;
    conformance::a_lease_has_one_holder_at_a_time(&store).await;
    conformance::a_change_under_a_lease_needs_the_lease(&store).await;
    let shutdown = Shutdown::new();
    let (told, hears) = std::sync::mpsc::channel();
    store.follow(&shutdown, Box::new(move |event| told.send(event).unwrap_or_default()));
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn the_service_can_do_no_more_than_its_statements_do() {
    let (store, database) = open().await;
    make(&store, "acme", StatusKind::Active).await;
    store.remove(Removal::of_unknown(id("late"), START), by("service:test")).await.unwrap();
    let elsewhere = "CREATE TABLE pulse_provisioner.secrets (secret text); CREATE SCHEMA elsewhere;
        CREATE TABLE elsewhere.secrets (secret text)";
    run(&mut database.connect().await, elsewhere).await.unwrap();

    let mut conn = PgConnection::connect(&login(&database).await).await.unwrap();
    run(&mut conn, "SET ROLE pulse_lifecycle; SET search_path = pulse_lifecycle").await.unwrap();
    run(&mut conn, "CREATE TEMPORARY TABLE mine (id text, status text)").await.unwrap();
    for (org, statement) in [
        // What belongs to others.
        ("acme", "SELECT * FROM pulse_provisioner.secrets"),
        ("acme", "SELECT * FROM elsewhere.secrets"),
        // What is kept for good.
        ("late", "DELETE FROM tombstones"),
        ("late", "UPDATE tombstones SET removed_at = now()"),
        ("acme", "DELETE FROM audit_events"),
        ("acme", "UPDATE audit_events SET actor = 'x'"),
        ("acme", "UPDATE audit_events SET hash = details_hash"),
        ("acme", "DELETE FROM audit_heads"),
        ("acme", "UPDATE audit_heads SET org_id = 'b'"),
        ("acme", "DELETE FROM leases"),
        // Whose an organization is, and since when.
        ("acme", "UPDATE organizations SET id = 'b'"),
        ("acme", "UPDATE organizations SET display_name = 'x'"),
        ("acme", "UPDATE organizations SET owner_email = 'x'"),
        ("acme", "UPDATE organizations SET owner_email_canonical = 'x'"),
        ("acme", "UPDATE organizations SET created_at = now()"),
        // What follows from its changes.
        ("acme", "INSERT INTO status_history VALUES ('acme', 9, 'active', 'suspended', now())"),
        ("acme", "UPDATE status_history SET at = now()"),
        ("acme", "DELETE FROM status_history"),
        ("acme", "UPDATE status_counts SET active = 0"),
        ("acme", "INSERT INTO status_counts (shard) VALUES (0)"),
        ("acme", "INSERT INTO legal_transitions VALUES ('purging', 'active')"),
        ("acme", "UPDATE changes SET version = 0"),
        ("acme", "SELECT count_tenants_anew()"),
        (
            "acme",
            "CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION organizations_count()",
        ),
        (
            "acme",
            "CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION organizations_record()",
        ),
        // The rules themselves.
        ("acme", "TRUNCATE organizations, status_history"),
        ("acme", "TRUNCATE tombstones"),
        ("acme", "ALTER TABLE organizations DISABLE TRIGGER USER"),
        ("acme", "ALTER TABLE organizations NO FORCE ROW LEVEL SECURITY"),
        ("acme", "DROP POLICY one_tenant ON organizations"),
        ("acme", "CREATE TABLE more (id text)"),
        ("acme", "UPDATE _sqlx_migrations SET version = 9"),
        ("acme", "SET LOCAL session_replication_role = replica"),
        ("acme", "SET LOCAL ROLE pulse_migrator"),
    ] {
        let refused = attempt(&mut conn, org, statement).await.expect_err(statement);
        assert_eq!(refusal(&refused).0, DENIED, "{statement}: {refused}");
    }
    // Erasing is the one change of a record that there is.
    assert_eq!(
        attempt(&mut conn, "acme", "UPDATE audit_events SET details = NULL, salt = NULL").await.unwrap(),
        2
    );
    let refused = attempt(&mut conn, "acme", "UPDATE audit_events SET details = '{}'").await.unwrap_err();
    assert_eq!(refusal(&refused).1, "audit_events_change_only_by_erasure");
}

#[tokio::test]
async fn a_table_of_ones_own_does_not_stand_in_for_the_rules() {
    let (store, database) = open().await;
    make(&store, "acme", StatusKind::Provisioning).await;
    store.remove(Removal::of_unknown(id("late"), START), by("service:test")).await.unwrap();
    let mut conn = connect_as(&database, "pulse_lifecycle").await;
    let own = "CREATE TEMPORARY TABLE legal_transitions AS VALUES ('provisioning', 'suspended');
        ALTER TABLE pg_temp.legal_transitions RENAME column1 TO from_status;
        ALTER TABLE pg_temp.legal_transitions RENAME column2 TO to_status;
        CREATE TEMPORARY TABLE tombstones (org_id text);
        CREATE TEMPORARY TABLE status_counts (LIKE pulse_lifecycle.status_counts)";
    run(&mut conn, own).await.unwrap();
    let skip = "UPDATE organizations SET version = 2, status = 'suspended', suspended_at = now()";
    let refused = attempt(&mut conn, "acme", skip).await.unwrap_err();
    assert_eq!(refusal(&refused).1, "organizations_change_legally", "{refused}");
    let revive =
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical,
        status, created_at, updated_at, version)
        VALUES ('late', 'L', 'u', 'l@x.org', 'l@x.org', 'provisioning', now(), now(), 1)";
    let refused = attempt(&mut conn, "late", revive).await.unwrap_err();
    assert_eq!(refusal(&refused).1, "tombstones_bar_ids", "{refused}");

    let activate = "BEGIN; SET LOCAL pulse.tenant = 'acme';
        UPDATE organizations SET version = 2, status = 'active'; COMMIT";
    run(&mut conn, activate).await.unwrap();
    assert_eq!(store.counts().await.unwrap().of(StatusKind::Active), 1, "counted where it counts");
}
