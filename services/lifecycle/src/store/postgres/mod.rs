//! The store for more than one machine: a schema in PostgreSQL that several replicas use at once. Its tables and their
//! constraints are in `migrations/postgres/`.
//!
//! | file | holds |
//! |---|---|
//! | here | opening it, and [`Store`] on its transactions |
//! | `reads` | the statements that read |
//! | `writes` | what each write does in its transaction, and why that is safe beside those of other replicas |
//!
//! An organization's rows are seen and changed in transactions of that organization only. What has to be looked for among all
//! of them, such as an address or what is due, is read apart.

mod reads;
#[cfg(test)]
mod tests;
mod writes;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_runtime::{DatabaseSettings, Shutdown};
use pulse_store::{
    StoreError,
    audit::{AuditRecord, Salt, postgres as audit},
    postgres::{PgDb, Schema, Scope, feed::LastLook},
};
use sqlx::migrate::Migrator;

use self::writes::Signed;
use super::{
    Counts, Creation, Found, Lease, OnEvent, OpenStoreError, QueueEntry, StatusChange, Store, Written,
    make_default,
};
use crate::domain::{Author, Organization, Removal, StatusKind, Transition};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What this service has in the database.
pub static SCHEMA: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &MIGRATIONS, has_feed: true };

/// How long a change waits until the other replicas have heard of it. One that is alive takes some milliseconds; one that is
/// not catches up when it is back.
const HEARD: Duration = Duration::from_millis(500);

/// The store in PostgreSQL. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    db: PgDb,
    entropy: Arc<dyn Entropy>,
}

impl PostgresStore {
    /// Opens the schema; makes the default organization in it where there is none, also when other replicas do so at the same
    /// time.
    ///
    /// # Errors
    /// When the database cannot be reached or written, is not prepared for this program, or belongs to a newer one.
    pub async fn open(
        settings: &DatabaseSettings,
        clock: &dyn Clock,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenStoreError> {
        let db = PgDb::open(settings, &SCHEMA, Arc::clone(&entropy)).await?;
        let store = Self { db, entropy };
        make_default(&store, clock).await?;
        Ok(store)
    }

    fn signed<T>(&self, what: T, author: Author) -> Signed<T> {
        Signed { what, author, salt: Salt::random(&*self.entropy) }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn create(&self, new: Transition, author: Author) -> Result<Creation, StoreError> {
        let id = new.organization.id.clone();
        self.db
            .write(&id, self.signed(new, author), |new, conn| {
                Box::pin(async move { writes::create(conn, new).await })
            })
            .await
    }

    async fn change(&self, transition: Transition, author: Author) -> Result<Written, StoreError> {
        let id = transition.organization.id.clone();
        self.db
            .write(&id, self.signed(transition, author), |transition, conn| {
                Box::pin(async move { Ok(writes::change(conn, transition).await?) })
            })
            .await
    }

    async fn change_under(
        &self,
        lease: &Lease,
        transition: Transition,
        author: Author,
    ) -> Result<Option<Written>, StoreError> {
        let id = transition.organization.id.clone();
        let input = (lease.clone(), self.signed(transition, author));
        self.db
            .write(&id, input, |(lease, transition), conn| {
                Box::pin(async move {
                    if !writes::hold(conn, lease).await? {
                        return Ok(None);
                    }
                    Ok(Some(writes::change(conn, transition).await?))
                })
            })
            .await
    }

    async fn remove(&self, removal: Removal, author: Author) -> Result<Written, StoreError> {
        let id = removal.tombstone.id.clone();
        self.db
            .write(&id, self.signed(removal, author), |removal, conn| {
                Box::pin(async move { Ok(writes::remove(conn, removal).await?) })
            })
            .await
    }

    async fn find(&self, id: &OrgId) -> Result<Found, StoreError> {
        self.db
            .read(Scope::Tenant(id), id, |id, conn| Box::pin(async move { Ok(reads::find(conn, id).await?) }))
            .await
    }

    async fn list(
        &self,
        status: Option<StatusKind>,
        after: Option<&OrgId>,
        limit: usize,
    ) -> Result<Vec<Organization>, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(status, after, limit), |(status, after, limit), conn| {
                Box::pin(async move { Ok(reads::list(conn, *status, *after, *limit).await?) })
            })
            .await
    }

    async fn due(
        &self,
        now: Timestamp,
        after: Option<&QueueEntry>,
        limit: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(now, after, limit), |(now, after, limit), conn| {
                Box::pin(async move { Ok(reads::due(conn, *now, *after, *limit).await?) })
            })
            .await
    }

    async fn purging(&self, after: Option<&QueueEntry>, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(after, limit), |(after, limit), conn| {
                Box::pin(async move { Ok(reads::purging(conn, *after, *limit).await?) })
            })
            .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(), |(), conn| Box::pin(async move { Ok(reads::counts(conn).await?) }))
            .await
    }

    async fn history(&self, id: &OrgId) -> Result<Vec<StatusChange>, StoreError> {
        self.db
            .read(Scope::Tenant(id), id, |id, conn| {
                Box::pin(async move { Ok(reads::history(conn, id).await?) })
            })
            .await
    }

    async fn audit_events(
        &self,
        id: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.db
            .read(Scope::Tenant(id), &(id, before, limit), |(id, before, limit), conn| {
                Box::pin(async move { Ok(audit::list(conn, id, *before, *limit).await?) })
            })
            .await
    }

    async fn take_lease(
        &self,
        name: &'static str,
        owner: &str,
        lasting: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.db
            .write_apart((name, owner.to_owned(), lasting), |(name, owner, lasting), conn| {
                Box::pin(async move { Ok(writes::take_lease(conn, name, owner, *lasting).await?) })
            })
            .await
    }

    async fn return_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        self.db
            .write_apart(lease.clone(), |lease, conn| {
                Box::pin(async move { Ok(writes::return_lease(conn, lease).await?) })
            })
            .await
    }

    async fn heard(&self, transaction: i64) -> bool {
        self.db.wait_for_followers(transaction, HEARD).await
    }

    fn follow(&self, shutdown: &Shutdown, on: OnEvent) -> Option<LastLook> {
        Some(self.db.follow(shutdown, on))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    async fn close(&self) {
        self.db.close();
    }
}
