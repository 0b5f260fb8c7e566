//! One service's schema in a PostgreSQL database that other services, and other replicas of this one, use at the same time.
//!
//! | module | holds |
//! |---|---|
//! | `connect` | the pool: bounded, with bounded waiting; connections that are broken or left in the middle are closed |
//! | `prepare` | roles, schemas and migrations, and whether this program fits them |
//! | `transact` | one transaction: begun for a tenant, tried again where that is safe, its commit settled where it was cut off |
//! | [`feed`] | what changed, in an order that no reader can miss |
//!
//! A service acts in its own role, whoever its URL logs in as, and sees the rows of one tenant at a time: every transaction is
//! begun with `SET LOCAL pulse.tenant`, and row-level security, forced on every table with tenants in it, does the rest. What
//! looks at many tenants asks for [`Scope::EveryTenant`], which can only read.
//!
//! Writes of one tenant happen one after the other: each takes a lock by the tenant's name that ends with its transaction.
//! Within it, every statement sees what was committed before it (`READ COMMITTED`), so that a constraint decides between
//! writes of two tenants, and a statement after it sees why.

mod connect;
pub mod feed;
mod prepare;
mod transact;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use pulse_kernel::{Entropy, OrgId};
use pulse_runtime::DatabaseSettings;
use sqlx::{PgConnection, migrate::Migrator};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::Instrument as _;

use self::connect::{Connections, Target};
pub use self::prepare::{PgOpenError, migrate};
use crate::StoreError;

/// How long [`PgDb::ping`] waits.
const PING: Duration = Duration::from_secs(2);

/// What a service has in the database.
#[derive(Debug)]
pub struct Schema {
    /// The name of the schema, and of the role that may use it: `pulse_lifecycle`.
    pub name: &'static str,
    /// The program, as the server's views show it, and as it is called to migrate: `pulse-lifecycle`.
    pub program: &'static str,
    /// How the schema comes to be.
    pub migrator: &'static Migrator,
    /// Whether it has a [`feed`] of changes.
    pub has_feed: bool,
}

/// Which rows a transaction sees.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of one tenant.
    Tenant(&'a OrgId),
    /// Those of every tenant; none of them can be changed.
    EveryTenant,
}

/// What is done in a transaction, with what it is done with. It may be done again from the start, in another transaction,
/// when the first was rolled back for no fault of its own.
///
/// It must end with any error that it gets from the database: after one, PostgreSQL does nothing more in that transaction. What
/// may run into a constraint says `ON CONFLICT`.
pub type Work<I, T, E> = for<'c> fn(&'c I, &'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>;

/// An error that may be the store's.
pub trait Failure: From<StoreError> {
    /// The store's failure, if it is one.
    fn as_store(&self) -> Option<&StoreError>;
}

impl Failure for StoreError {
    fn as_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// A service's schema, open. Clones share it.
#[derive(Debug, Clone)]
pub struct PgDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    schema: &'static Schema,
    connections: Connections,
    target: Target,
    entropy: Arc<dyn Entropy>,
    /// When a transaction last succeeded.
    last_success: std::sync::Mutex<Option<Instant>>,
    /// Tells the follower of the feed in this process, who tells the others, that something was written.
    written: Notify,
}

impl PgDb {
    /// Opens the schema in the database that the settings name, after bringing it up to date where the settings and the
    /// database's user allow that. A database that is not there yet is waited for.
    ///
    /// # Errors
    /// When it cannot be reached, is not prepared for this program, or belongs to a newer one.
    pub async fn open(
        settings: &DatabaseSettings,
        schema: &'static Schema,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, PgOpenError> {
        let target = Target::of(settings)?;
        prepare::prepare(&target, schema, settings.database_migrate).await?;
        let connections = Connections::new(target.as_service(schema), settings)?;
        let last_success = std::sync::Mutex::new(Some(Instant::now()));
        let inner = Inner { schema, connections, target, entropy, last_success, written: Notify::new() };
        Ok(Self(Arc::new(inner)))
    }

    /// Does `work` in a transaction that can only read: everything it reads is of one moment.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`] when it could not be run.
    pub async fn read<I, T, E>(&self, scope: Scope<'_>, input: &I, work: Work<I, T, E>) -> Result<T, E>
    where
        I: Sync,
        T: Send,
        E: Failure + Send,
    {
        self.0.read(scope, input, work).await
    }

    /// Does `work` in a transaction of this tenant, alone among the tenant's writes, and answers once it is committed. It is
    /// done to its end, also when the caller goes away.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`]: `Unavailable` and `Overloaded` when it was not run, `Aborted` when it was
    /// rolled back, `Ambiguous` when its commit was cut off and the database cannot be asked what became of it.
    pub async fn write<I, T, E>(&self, org: &OrgId, input: I, work: Work<I, T, E>) -> Result<T, E>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        E: Failure + Send + 'static,
    {
        let (this, org) = (self.clone(), org.clone());
        let done = async move { this.0.write(Some(&org), &input, work).await };
        // A panic in there was logged as one; to the caller it is one failure among others.
        tokio::spawn(done.in_current_span()).await.unwrap_or_else(|_| Err(StoreError::Panicked.into()))
    }

    /// As [`PgDb::write`], for what belongs to no tenant: no row of a tenant is seen.
    ///
    /// # Errors
    /// As [`PgDb::write`].
    pub async fn write_apart<I, T, E>(&self, input: I, work: Work<I, T, E>) -> Result<T, E>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        E: Failure + Send + 'static,
    {
        let this = self.clone();
        let done = async move { this.0.write(None, &input, work).await };
        tokio::spawn(done.in_current_span()).await.unwrap_or_else(|_| Err(StoreError::Panicked.into()))
    }

    /// Whether the schema can be read and written. While every connection is busy with work that succeeds, it can.
    ///
    /// # Errors
    /// A [`StoreError`] that says what cannot be done.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = timeout(PING, self.0.ask()).await;
        match asked.unwrap_or(Err(StoreError::Unavailable("the database does not answer"))) {
            Err(StoreError::Overloaded(_)) if self.0.succeeded_within(transact::AT_WORK) => Ok(()),
            asked => asked,
        }
    }

    /// How many connections are in use, and how many requests wait for one.
    pub fn load(&self) -> (usize, usize) {
        self.0.connections.load()
    }

    /// Closes every connection; what comes later is refused.
    pub fn close(&self) {
        self.0.connections.close();
    }
}

/// A connection of the schema's owner, for what changes it as a whole.
pub(crate) async fn connect_as_migrator(
    settings: &DatabaseSettings,
    schema: &Schema,
) -> Result<PgConnection, PgOpenError> {
    connect::connect(&Target::of(settings)?.as_migrator(schema)).await.map_err(PgOpenError::Connect)
}

/// Lets the rest of the transaction see and change the rows of another tenant, once no other write of that tenant is under way;
/// for a change that reaches into several. Those who turn to several do so in the order of their ids; where two wait for each
/// other all the same, the database ends one, which is done again.
///
/// # Errors
/// When the database fails.
pub async fn turn_to(conn: &mut PgConnection, org: &OrgId) -> Result<(), sqlx::Error> {
    transact::turn_to(conn, org).await
}

/// Lets the rest of the transaction read the rows of every tenant, and change none.
///
/// # Errors
/// When the database fails.
pub async fn turn_to_every(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    transact::turn_to_every(conn).await
}
