//! What the service's role can do at all: what its statements need, and nothing else.

use super::*;

/// A user who may log in and be the service, and is nothing else.
async fn login(database: &Database) -> String {
    let name = format!("login_{}", database.name());
    let mut conn = database.connect().await;
    run(&mut conn, &format!("CREATE ROLE {name} LOGIN IN ROLE pulse_billing_state")).await.unwrap();
    let url = database.url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, at) = rest.split_once('@').unwrap();
    format!("{scheme}://{name}@{at}")
}

#[tokio::test]
async fn the_service_needs_no_more_than_its_role() {
    let (_store, database) = open_new().await;
    let store = open_at(&login(&database).await, 4).await;
    let shutdown = Shutdown::new();
    let (told, hears) = std::sync::mpsc::channel();
    store.follow(&shutdown, Box::new(move |event| told.send(event).unwrap_or_default()));
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;

    with_history(&store).await;
    assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 3);
    assert_eq!(store.creator(&org()).await.unwrap().as_deref(), Some("k"));
    let purged = store.purge(&org(), None).await.unwrap();
    assert_eq!(purged.purge, Purge::Removed);
    assert!(store.heard(purged.transaction.unwrap()).await);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
    store.ping().await.unwrap();
    store.db.prune_changes().await.unwrap();
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn the_service_can_do_no_more_than_its_statements_do() {
    let (store, database) = open_new().await;
    with_history(&store).await;
    store.purge(&OrgId::parse("gone").unwrap(), None).await.unwrap();
    let elsewhere = "CREATE TABLE pulse_provisioner.secrets (secret text); CREATE SCHEMA elsewhere;
        CREATE TABLE elsewhere.secrets (secret text)";
    run(&mut database.connect().await, elsewhere).await.unwrap();

    let mut conn = PgConnection::connect(&login(&database).await).await.unwrap();
    run(&mut conn, "SET ROLE pulse_billing_state; SET search_path = pulse_billing_state").await.unwrap();
    for (org, statement) in [
        // What belongs to others.
        ("acme", "SELECT * FROM pulse_provisioner.secrets"),
        ("acme", "SELECT * FROM elsewhere.secrets"),
        // What is kept for good.
        ("gone", "DELETE FROM purged_tenants"),
        ("gone", "UPDATE purged_tenants SET purged_at = now()"),
        ("acme", "UPDATE audit_events SET actor = 'x'"),
        ("acme", "UPDATE audit_events SET details = NULL, salt = NULL"),
        ("acme", "UPDATE audit_heads SET org_id = 'b'"),
        // Whose a state is, and who made it.
        ("acme", "UPDATE billing_states SET org_id = 'b'"),
        ("acme", "UPDATE billing_states SET created_by_key = 'mine'"),
        ("acme", "UPDATE changes SET version = 0"),
        ("acme", "DELETE FROM feed"),
        // The rules themselves.
        ("acme", "TRUNCATE billing_states"),
        ("acme", "TRUNCATE purged_tenants"),
        ("acme", "ALTER TABLE billing_states DISABLE TRIGGER USER"),
        ("acme", "ALTER TABLE billing_states NO FORCE ROW LEVEL SECURITY"),
        ("acme", "DROP POLICY one_tenant ON billing_states"),
        ("acme", "CREATE TABLE more (id text)"),
        ("acme", "UPDATE _sqlx_migrations SET version = 9"),
        ("acme", "SET LOCAL session_replication_role = replica"),
        ("acme", "SET LOCAL ROLE pulse_migrator"),
    ] {
        let refused = attempt(&mut conn, org, statement).await.expect_err(statement);
        assert_eq!(refusal(&refused).0, DENIED, "{statement}: {refused}");
    }
}

#[tokio::test]
async fn a_table_of_ones_own_does_not_stand_in_for_the_rules() {
    let (store, database) = open_new().await;
    with_history(&store).await;
    let gone = OrgId::parse("gone").unwrap();
    store.purge(&gone, None).await.unwrap();
    let mut conn = connect_as(&database, "pulse_billing_state").await;
    let own = "CREATE TEMPORARY TABLE purged_tenants (org_id text);
        CREATE TEMPORARY TABLE billing_states (LIKE pulse_billing_state.billing_states);
        CREATE TEMPORARY TABLE audit_events (LIKE pulse_billing_state.audit_events);
        CREATE TEMPORARY TABLE audit_heads (LIKE pulse_billing_state.audit_heads)";
    run(&mut conn, own).await.unwrap();
    for (org, statement, constraint) in [
        (
            "gone",
            "INSERT INTO pulse_billing_state.audit_heads VALUES ('gone', 1, decode(repeat('00', 32), 'hex'))",
            "purged_tenants_stay_gone",
        ),
        (
            "acme",
            "INSERT INTO pulse_billing_state.purged_tenants VALUES ('acme', now())",
            "purged_tenants_are_gone",
        ),
    ] {
        let refused = attempt(&mut conn, org, statement).await.unwrap_err();
        assert_eq!(refusal(&refused).1, constraint, "{refused}");
    }
}
