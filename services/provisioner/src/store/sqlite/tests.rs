//! What only the embedded store does.

use std::time::Duration;

use pulse_kernel::OsEntropy;
use sqlx::{Connection as _, SqliteConnection};

use super::*;
use crate::store::conformance::{NOW, advance, provision, tenant};

async fn raw(directory: &tempfile::TempDir) -> SqliteConnection {
    let path = directory.path().join("provisioner.db");
    SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
}

#[test]
fn the_audit_tables_are_those_that_the_audit_chain_expects() {
    let migration = include_str!("../../../migrations/sqlite/0001_accounts_and_sagas.sql");
    assert!(migration.contains(audit::sqlite::DDL));
}

#[tokio::test]
async fn leases_of_an_earlier_process_are_cleared_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("provisioner.db");
    let store = SqliteStore::open(&path, Arc::new(OsEntropy)).await.unwrap();
    let saga = provision("ann@example.com");
    store.begin(saga.clone()).await.unwrap();
    assert!(store.due_sagas(NOW, 10).await.unwrap().is_empty());
    store.close().await;
    let store = SqliteStore::open(&path, Arc::new(OsEntropy)).await.unwrap();
    assert_eq!(store.due_sagas(NOW, 10).await.unwrap().len(), 1);
    let stale = store.advance(advance(saga, Effect::None)).await;
    assert!(matches!(stale, Err(AdvanceError::Fenced)), "the dead process's runner is fenced");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("provisioner.db");
    let store = SqliteStore::open(&path, Arc::new(OsEntropy)).await.unwrap();
    for number in 0..5 {
        store.begin(provision(&format!("user{number}@example.com"))).await.unwrap();
    }
    let newest = store.list_sagas(SagaQuery { limit: 2, ..SagaQuery::default() }).await.unwrap();
    let damage = sqlx::query("UPDATE sagas SET owner_user_id = 'damaged' WHERE org_id = ?");
    damage.bind(newest[0].org_id.as_str()).execute(&mut raw(&directory).await).await.unwrap();
    let page = store.list_sagas(SagaQuery { limit: 4, ..SagaQuery::default() }).await.unwrap();
    assert_eq!(page.len(), 4, "a full page, as there are four others");
    assert_eq!(page[0].org_id, newest[1].org_id);
    let later = NOW.checked_add(Duration::from_secs(31)).unwrap();
    assert_eq!(store.due_sagas(later, 10).await.unwrap().len(), 4);
    assert!(store.find_saga(&newest[0].id()).await.is_err());
}

/// I12: what code must not do, the schema does not let it do.
#[tokio::test]
async fn illegal_rows_are_refused_by_the_schema() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("provisioner.db");
    let store = SqliteStore::open(&path, Arc::new(OsEntropy)).await.unwrap();
    tenant(&store, "ann@example.com").await;
    store.begin(provision("bob@example.com")).await.unwrap();
    let mut conn = raw(&directory).await;
    for statement in [
        "UPDATE sagas SET state = 'done' WHERE state = 'running'",
        "UPDATE sagas SET step = 'finish_purge' WHERE state = 'running'",
        "UPDATE sagas SET state = 'compensating' WHERE state = 'running'",
        "UPDATE sagas SET next_attempt_at = NULL WHERE state = 'running'",
        "UPDATE sagas SET owner_email_canonical = NULL WHERE state = 'running'",
        "UPDATE sagas SET password_hash = NULL WHERE state = 'running'",
        "UPDATE sagas SET state = 'stuck', direction = 'forward' WHERE state = 'running'",
        "UPDATE sagas SET state = 'running', step = 'start_trial' WHERE state = 'done'",
        "UPDATE sagas SET owner_email = 'x' WHERE state = 'done'",
        "UPDATE sagas SET kind = 'purge' WHERE state = 'running'",
        "UPDATE sagas SET lease_owner = 'x', lease_until = 1 WHERE state = 'done'",
        "UPDATE accounts SET password_hash = 'plaintext'",
        "UPDATE memberships SET role = 'god'",
        "INSERT INTO memberships VALUES ('acme', 'nobody', 'owner')",
        "INSERT INTO accounts SELECT 'other', home_org_id, email, email_canonical, password_hash, 0 FROM accounts",
        "UPDATE audit_events SET actor = 'someone else'",
    ] {
        let refused = sqlx::query(statement).execute(&mut conn).await;
        assert!(refused.is_err_and(|error| error.as_database_error().is_some()), "{statement}");
    }
}
