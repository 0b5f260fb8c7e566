//! Opening the schema, and what it refuses whoever asks.

use futures::future::join_all;
use pulse_runtime::settings::try_parse_from;
use pulse_store::{audit::postgres as audit, postgres::feed};

use super::*;
use crate::Config;

#[test]
fn the_migration_holds_the_shared_tables_as_documented() {
    let migration = include_str!("../../../../migrations/postgres/0001_billing_states.sql");
    assert!(migration.contains(audit::DDL) && migration.contains(feed::DDL));
}

#[tokio::test]
async fn replicas_that_start_together_on_an_empty_database_make_one_schema() {
    let database = Postgres::shared().await.database().await;
    let starts = (0..4).map(|_| {
        let database = database.clone();
        tokio::spawn(async move { open(&database, 2).await })
    });
    let stores: Vec<_> = join_all(starts).await.into_iter().map(Result::unwrap).collect();
    let made = join_all(stores.iter().map(|store| store.put(trial_write("k", 0)))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    for store in &stores {
        assert!(matches!(store.get(&org()).await.unwrap(), Lookup::Stored(trial) if trial.revision == 1));
    }
}

#[tokio::test]
async fn the_settings_choose_the_store_and_its_schema_can_be_made_beforehand() {
    let database = Postgres::shared().await.database().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let parse = |args: &[&str]| -> Config {
        let own = ["pulse-billing-state", "--data-dir", folder, "--database-migrate", "false"];
        try_parse_from(own.iter().chain(args)).unwrap()
    };
    let embedded = crate::open_store(&parse(&[])).await.unwrap();
    assert!(format!("{embedded:?}").starts_with("FileStore"), "{embedded:?}");
    let refused = crate::migrate(&parse(&["migrate"])).await.unwrap_err();
    assert!(format!("{refused:#}").contains("PULSE_DATABASE_URL"), "{refused:#}");

    let url = database.url();
    let config = parse(&["--database-url", &url, "migrate"]);
    let refused = crate::open_store(&config).await.unwrap_err();
    assert!(format!("{refused:#}").contains("roles.sql"), "{refused:#}");
    for _ in 0..2 {
        assert_eq!(crate::migrate(&config).await.unwrap(), "pulse_billing_state is at version 1");
    }
    let shared = crate::open_store(&config).await.unwrap();
    assert!(format!("{shared:?}").starts_with("PostgresStore"), "{shared:?}");
    shared.ping().await.unwrap();
}

#[tokio::test]
async fn an_administrator_finds_what_the_document_says_in_the_columns_too() {
    let (store, database) = open_new().await;
    let stored = with_history(&store).await;
    let mut conn = connect_as(&database, "postgres").await;
    let row: (String, String, i64, Option<String>, bool, bool) = sqlx::query_as(
        "SELECT subscription_state, etag, revision, created_by_key, state ->> 'plan_version' = 'trial',
             updated_at = (state ->> 'updated_at')::timestamptz
         FROM billing_states WHERE org_id = 'acme'",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(row, ("expired".to_owned(), stored.state.etag(), 3, Some("k".to_owned()), true, true));
    let changes: Vec<(String, i64)> = sqlx::query_as("SELECT org_id, version FROM changes ORDER BY sequence")
        .fetch_all(&mut conn)
        .await
        .unwrap();
    assert_eq!(changes, [1, 2, 3].map(|version| ("acme".to_owned(), version)));

    store.purge(&org(), None).await.unwrap();
    store.purge(&org(), None).await.unwrap();
    store.purge(&OrgId::parse("never-there").unwrap(), None).await.unwrap();
    let changes: Vec<(String, i64)> = sqlx::query_as(
        "SELECT org_id, version FROM changes WHERE version = 4 OR org_id <> 'acme' ORDER BY sequence",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(changes, [("acme".to_owned(), 4), ("never-there".to_owned(), 1)], "and not twice");
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM billing_states) + (SELECT count(*) FROM audit_events) + (SELECT count(*) FROM audit_heads)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_the_program_never_writes_cannot_be_written() {
    let (store, database) = open_new().await;
    with_history(&store).await;
    for id in ["bare", "fresh"] {
        store.put(trial_of(id)).await.unwrap();
    }
    store.purge(&OrgId::parse("gone").unwrap(), None).await.unwrap();
    let mut conn = connect_as(&database, "postgres").await;
    // An audited tenant without a state.
    run(&mut conn, "DELETE FROM billing_states WHERE org_id = 'bare'").await.unwrap();

    let update = |what: &str| format!("UPDATE billing_states SET {what} WHERE org_id = 'fresh'");
    let insert = |org: &str, state: &str, document: &str, etag: &str, revision: i64| {
        format!(
            "INSERT INTO billing_states VALUES ('{org}', '{state}', jsonb_build_object('org_id', '{org}', 'subscription_state',
                 '{state}', 'etag', '{etag}') || '{document}', '{etag}', {revision}, NULL, now())"
        )
    };
    let etag = "0123456789abcdef0123456789abcdef";
    let next = "revision = revision + 1";
    let columns = "billing_states_columns_repeat_the_document";
    let advance = "billing_states_only_advance";
    for (statement, constraint) in [
        (insert("bare", "trial", "{}", etag, 1), ""),
        (insert("bare", "unpaid", "{}", etag, 1), "billing_states_subscription_state_is_known"),
        (insert("bare", "trial", "{}", "etag", 1), "billing_states_etag_is_well_formed"),
        (insert("bare", "trial", r#"{"subscription_state": "active"}"#, etag, 1), columns),
        (insert("bare", "trial", r#"{"org_id": "acme"}"#, etag, 1), columns),
        (insert("bare", "trial", r#"{"etag": "x"}"#, etag, 1), columns),
        (insert("bare", "trial", r#"{"etag": null}"#, etag, 1), columns),
        (insert("bare", "trial", "{}", etag, 2), "billing_states_are_audited"),
        (insert("unaudited", "trial", "{}", etag, 1), "billing_states_are_audited"),
        (insert("*", "trial", "{}", etag, 1), "billing_states_id_is_well_formed"),
        (insert("gone", "trial", "{}", etag, 1), "purged_tenants_stay_gone"),
        (update(&format!("state = '[]', {next}")), columns),
        (update(&format!("state = state - 'subscription_state', {next}")), columns),
        (update(&format!("subscription_state = 'active', {next}")), columns),
        (update(&format!("updated_at = 'infinity', {next}")), "billing_states_times_are_finite"),
        (update(next), "billing_states_are_audited"),
        (update("state = state || '{\"plan_version\": \"gold\"}'"), advance),
        (update("revision = revision + 2"), advance),
        (update(&format!("created_by_key = 'mine', {next}")), advance),
        (update(&format!("org_id = 'other', {next}")), advance),
        ("DELETE FROM audit_events WHERE org_id = 'fresh'".to_owned(), "billing_states_are_audited"),
        ("INSERT INTO purged_tenants VALUES ('fresh', now())".to_owned(), "purged_tenants_are_gone"),
        ("INSERT INTO purged_tenants VALUES ('bare', now())".to_owned(), "purged_tenants_are_gone"),
        ("INSERT INTO purged_tenants VALUES ('*', now())".to_owned(), "purged_tenants_id_is_well_formed"),
        ("INSERT INTO purged_tenants VALUES ('b', 'infinity')".to_owned(), "purged_tenants_times_are_finite"),
        ("INSERT INTO purged_tenants VALUES ('gone', now())".to_owned(), "purged_tenants_pkey"),
        ("UPDATE purged_tenants SET purged_at = now()".to_owned(), "purged_tenants_never_change"),
        ("DELETE FROM purged_tenants".to_owned(), "purged_tenants_never_change"),
        (
            "INSERT INTO audit_heads SELECT 'gone', sequence, hash FROM audit_heads LIMIT 1".to_owned(),
            "purged_tenants_stay_gone",
        ),
        (
            "INSERT INTO audit_events SELECT 'gone', sequence, occurred_at, actor, action, details, salt, details_hash,
                 previous_hash, hash FROM audit_events LIMIT 1"
                .to_owned(),
            "purged_tenants_stay_gone",
        ),
    ] {
        let done = attempt(&mut conn, "*", &statement).await;
        match done {
            Ok(rows) => assert_eq!((rows, constraint), (1, ""), "{statement}"),
            Err(error) => assert_eq!(refusal(&error).1, constraint, "{statement}: {error}"),
        }
    }
    assert!(matches!(store.get(&org()).await.unwrap(), Lookup::Stored(stored) if stored.revision == 3));
}

#[tokio::test]
async fn who_comes_when_every_connection_is_taken_is_refused() {
    let database = Postgres::shared().await.database().await;
    let one = DatabaseSettings {
        database_acquire_timeout: Duration::from_millis(100),
        ..settings(&database.url(), 1)
    };
    let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::default()));
    let store = PostgresStore::open(&one, clock, entropy).await.unwrap();
    let mut lock = connect_as(&database, "postgres").await;
    run(&mut lock, "BEGIN; LOCK TABLE billing_states").await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.put(trial_write("k", 0)).await }
    });
    pulse_testkit::eventually(WAIT, async || store.db.load().0 == 1).await;
    let refused = store.get(&org()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Database(pulse_store::StoreError::Overloaded(_))), "{refused:?}");
    run(&mut lock, "ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();
    store.get(&org()).await.unwrap();
}
