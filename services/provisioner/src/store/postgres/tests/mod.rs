//! What matters only where several processes share the store.
//!
//! | file | holds |
//! |---|---|
//! | here | a store on a database of its own |

use pulse_kernel::OsEntropy;
use pulse_testkit::{Database, Postgres};

use super::*;

/// Settings that lead to the database.
pub(in crate::store) fn settings(url: String) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: 10.try_into().unwrap(),
        database_acquire_timeout: std::time::Duration::from_secs(2),
        database_migrate: true,
    }
}

/// Another replica's store on the database.
pub(in crate::store) async fn open_on(database: &Database) -> PostgresStore {
    PostgresStore::open(&settings(database.url()), Arc::new(OsEntropy)).await.unwrap()
}

/// A store on a database of its own.
pub(in crate::store) async fn open() -> (PostgresStore, Database) {
    let database = Postgres::shared().await.database().await;
    (open_on(&database).await, database)
}
