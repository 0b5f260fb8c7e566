//! What only the database itself can promise, to several replicas at once.
//!
//! | file | holds |
//! |---|---|
//! | here | a store on a database of its own, and the cases that every store has to pass |
//! | `schema` | opening it, moving into it, and what the schema itself refuses |
//! | `isolation` | what an organization's transaction sees and changes |
//! | `privileges` | what the service's role can do at all |
//! | `replicas` | two stores on one database |
//! | `plans` | how each statement finds its rows among many |

mod isolation;
mod plans;
mod privileges;
mod replicas;
mod schema;

use std::time::Duration;

use pulse_store::postgres::{Failure, Work, turn_to_every};
use pulse_testkit::{Database, ManualClock, Postgres, SeededEntropy};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::*;
use crate::store::conformance::{START, by, id, make, new, organization, store_conformance};

/// How long a test waits for a condition.
const WAIT: Duration = Duration::from_secs(20);

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

/// One organization in each status, named after it.
async fn one_of_each(store: &PostgresStore) {
    for kind in StatusKind::ALL {
        make(store, &format!("org-{}", kind.as_str().replace('_', "-")), kind).await;
    }
}

/// A connection of the superuser in another role, with the schema of this service.
async fn connect_as(database: &Database, role: &str) -> PgConnection {
    let mut conn = database.connect().await;
    run(&mut conn, &format!("SET ROLE {role}; SET search_path = pulse_lifecycle")).await.unwrap();
    conn
}

async fn run(conn: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(conn).await?;
    Ok(())
}

/// What a statement does in a transaction of that tenant, by how many rows; it is rolled back. What is checked at its end is
/// checked.
async fn attempt(conn: &mut PgConnection, tenant: &str, statement: &str) -> Result<u64, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    run(&mut transaction, &format!("SET LOCAL pulse.tenant = '{tenant}'")).await?;
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *transaction).await?;
    run(&mut transaction, "SET CONSTRAINTS ALL IMMEDIATE").await?;
    transaction.rollback().await?;
    Ok(done.rows_affected())
}

/// The state and the constraint by which a statement was refused.
fn refusal(error: &sqlx::Error) -> (String, String) {
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    let code = error.code().unwrap_or_default().into_owned();
    (code, error.constraint().unwrap_or_default().to_owned())
}

/// The state of a statement that needs a right that its role does not have.
const DENIED: &str = "42501";
