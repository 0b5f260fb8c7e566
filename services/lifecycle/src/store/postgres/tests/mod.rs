//! What only the database itself can promise, to several replicas at once.
//!
//! | file | holds |
//! |---|---|
//! | here | a store on a database of its own, and the cases that every store has to pass |

use pulse_testkit::{Database, ManualClock, Postgres, SeededEntropy};

use super::*;
use crate::store::conformance::store_conformance;

/// Settings that lead to the database, by so many connections.
fn settings(url: String, connections: u32) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: connections.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(5),
        database_migrate: true,
    }
}

/// Another replica on that database.
async fn replica(database: &Database) -> PostgresStore {
    replica_by(database.url(), 10).await
}

async fn replica_by(url: String, connections: u32) -> PostgresStore {
    let entropy = Arc::new(SeededEntropy::default());
    PostgresStore::open(&settings(url, connections), &ManualClock::default(), entropy).await.unwrap()
}

/// A store on a database of its own.
async fn open() -> (PostgresStore, Database) {
    let database = Postgres::shared().await.database().await;
    (replica(&database).await, database)
}

store_conformance!(open());

#[test]
fn the_migration_holds_the_shared_tables_as_documented() {
    let migration = include_str!("../../../../migrations/postgres/0001_organizations.sql");
    assert!(migration.contains(audit::DDL) && migration.contains(pulse_store::postgres::feed::DDL));
}
