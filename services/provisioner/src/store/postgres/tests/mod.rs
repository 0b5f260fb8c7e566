//! What matters only where several processes share the store.
//!
//! | file | holds |
//! |---|---|
//! | here | a store on a database of its own, and what is looked at there |
//! | `races` | writes of several replicas at once |
//! | `isolation` | what a tenant's transaction sees and changes |
//! | `schema` | opening it, and what the schema itself refuses |

mod isolation;
mod races;
mod schema;

use std::time::Duration;

use pulse_kernel::OsEntropy;
use pulse_testkit::{Database, Postgres, eventually};
use sqlx::PgConnection;

use super::*;

/// How long a test waits for a condition.
const WAIT: Duration = Duration::from_secs(20);

/// Settings that lead to the database.
fn settings(url: String) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: 10.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(2),
        database_migrate: true,
    }
}

/// Another replica's store on the database.
async fn open_on(database: &Database) -> PostgresStore {
    PostgresStore::open(&settings(database.url()), Arc::new(OsEntropy)).await.unwrap()
}

/// A store on a database of its own.
pub(in crate::store) async fn open() -> (PostgresStore, Database) {
    let database = Postgres::shared().await.database().await;
    (open_on(&database).await, database)
}

/// A superuser, from whom row-level security hides nothing, in the schema.
async fn superuser(database: &Database) -> PgConnection {
    let mut conn = database.connect().await;
    sqlx::query("SET search_path TO pulse_provisioner").execute(&mut conn).await.unwrap();
    conn
}

/// Waits until that many transactions wait for another.
async fn until_waiting(database: &Database, count: i64) {
    let mut conn = database.connect().await;
    eventually(WAIT, async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        waiting == count
    })
    .await;
}

/// Whether every audit chain verifies.
async fn audit_is_intact(store: &PostgresStore) -> bool {
    let broken: Result<_, StoreError> = store
        .db
        .read(Scope::EveryTenant, &(), |(), conn| {
            Box::pin(async move { Ok(audit::postgres::verify_all(conn).await?) })
        })
        .await;
    broken.unwrap().is_empty()
}
