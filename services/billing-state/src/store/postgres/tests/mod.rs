//! What only the database itself can promise, to several replicas at once.
//!
//! | module | holds |
//! |---|---|
//! | here | a store on a database of its own |
//! | `schema` | opening it, and what the schema itself refuses |
//! | `documents` | states that cannot be understood, histories that were altered |
//! | `isolation` | what a tenant's transaction sees and changes |
//! | `privileges` | what the service's role can do at all |
//! | `plans` | how each statement finds its rows among many |

mod documents;
mod isolation;
mod plans;
mod privileges;
mod schema;

use pulse_entitlements::SubscriptionState::{Active, Expired, Suspended};
use pulse_testkit::{Database, ManualClock, Postgres, SeededEntropy};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::*;
use crate::{
    domain::tests::{ask, key, org, set_on, trial_write, trial_write_of},
    store::Purge,
};

/// How long a test waits for a condition.
const WAIT: Duration = Duration::from_secs(20);

/// The state of a statement that needs a right that its role does not have.
const DENIED: &str = "42501";

/// A store on that database, with so many connections.
pub(in crate::store) async fn open(database: &Database, connections: u32) -> PostgresStore {
    open_at(&database.url(), connections).await
}

async fn open_at(url: &str, connections: u32) -> PostgresStore {
    let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::default()));
    PostgresStore::open(&settings(url, connections), clock, entropy).await.unwrap()
}

fn settings(url: &str, connections: u32) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: connections.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(5),
        database_migrate: true,
    }
}

/// A store on a database of its own.
async fn open_new() -> (PostgresStore, Database) {
    let database = Postgres::shared().await.database().await;
    (open(&database, 4).await, database)
}

/// A trial of that tenant.
fn trial_of(id: &str) -> Write {
    trial_write_of(&OrgId::parse(id).unwrap(), "k", 0)
}

/// `acme`, with a trial that was changed twice.
async fn with_history(store: &PostgresStore) -> pulse_entitlements::Stored {
    let trial = store.put(trial_write("k", 0)).await.unwrap().stored;
    let active = store.put(set_on(&trial.state, &ask(Active), 1)).await.unwrap().stored;
    store.put(set_on(&active.state, &ask(Expired), 2)).await.unwrap().stored
}

/// A connection of the superuser in another role, with the schema of this service.
async fn connect_as(database: &Database, role: &str) -> PgConnection {
    let mut conn = database.connect().await;
    run(&mut conn, &format!("SET ROLE {role}; SET search_path = pulse_billing_state")).await.unwrap();
    conn
}

/// A connection of the superuser that no trigger and no foreign key keeps from anything.
async fn connect_as_vandal(database: &Database) -> PgConnection {
    let mut conn = connect_as(database, "postgres").await;
    run(&mut conn, "SET session_replication_role = replica").await.unwrap();
    conn
}

async fn run(conn: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(conn).await?;
    Ok(())
}

/// What a statement does in a transaction of that tenant, by how many rows; it is rolled back.
async fn attempt(conn: &mut PgConnection, tenant: &str, statement: &str) -> Result<u64, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    run(&mut transaction, &format!("SET LOCAL pulse.tenant = '{tenant}'")).await?;
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(done.rows_affected())
}

/// The state and the constraint by which a statement was refused.
fn refusal(error: &sqlx::Error) -> (String, String) {
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    let code = error.code().unwrap_or_default().into_owned();
    (code, error.constraint().unwrap_or_default().to_owned())
}
