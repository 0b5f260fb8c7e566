//! The store for more than one machine: a schema in PostgreSQL that several replicas use at once. Its tables and their
//! constraints are in `migrations/postgres/`.
//!
//! | module | holds |
//! |---|---|
//! | here | opening it, and [`Store`] on its transactions |
//! | `statements` | what each transaction does |
//! | `history` | the audit, verified |
//!
//! A state is the document that `billing.json` is elsewhere, and is read just as strictly: one that cannot be understood is left
//! as it is, and the last known state comes from the history. Nobody edits it by hand, as a change without its audit record
//! is refused.

mod history;
mod statements;
#[cfg(test)]
pub(super) mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use pulse_entitlements::Lookup;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_runtime::{DatabaseSettings, Shutdown};
use pulse_store::{
    PgDb, PgOpenError,
    audit::{AuditRecord, Salt},
    postgres::{Schema, Scope, feed::LastLook},
    time,
};
use sqlx::migrate::Migrator;
use tokio::time::Instant;

use super::{Committed, Listing, OnEvent, Purged, Store, StoreError};
use crate::domain::{Key, Write};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What this service has in the database.
pub static SCHEMA: Schema = Schema {
    name: "pulse_billing_state",
    program: "pulse-billing-state",
    migrator: &MIGRATIONS,
    has_feed: true,
};

/// How long a change waits until the other replicas have heard of it. One that is alive takes some milliseconds; one that is
/// not catches up when it is back.
const HEARD: Duration = Duration::from_millis(500);

/// The store in PostgreSQL. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    db: PgDb,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl PostgresStore {
    /// Opens the schema, after bringing it up to date where the settings and the database's user allow that.
    ///
    /// # Errors
    /// When the database cannot be reached, is not prepared for this program, or belongs to a newer one.
    pub async fn open(
        settings: &DatabaseSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, PgOpenError> {
        let db = PgDb::open(settings, &SCHEMA, entropy.clone()).await?;
        Ok(Self { db, clock, entropy })
    }

    fn now(&self) -> Timestamp {
        time::truncate(self.clock.now())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError> {
        self.db
            .read(Scope::Tenant(org), org, |org, conn| {
                Box::pin(async move { statements::get(conn, org).await })
            })
            .await
    }

    async fn put(&self, write: Write) -> Result<Committed, StoreError> {
        let org = write.state.org_id.clone();
        let input = (write, Salt::random(&*self.entropy));
        let (stored, transaction) = self
            .db
            .write(&org, input, |(write, salt), conn| {
                Box::pin(async move { statements::put(conn, write, *salt).await })
            })
            .await?;
        Ok(Committed { stored, at: Instant::now(), transaction: Some(transaction) })
    }

    async fn creator(&self, org: &OrgId) -> Result<Option<String>, StoreError> {
        self.db
            .read(Scope::Tenant(org), org, |org, conn| {
                Box::pin(async move { statements::creator(conn, org).await })
            })
            .await
    }

    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purged, StoreError> {
        let input = (org.clone(), created_by.cloned(), self.now());
        let (purge, transaction) = self
            .db
            .write(org, input, |(org, created_by, now), conn| {
                Box::pin(async move { statements::purge(conn, org, created_by.as_ref(), *now).await })
            })
            .await?;
        Ok(Purged { purge, transaction })
    }

    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.db
            .read(Scope::Tenant(org), &(org, before, limit), |(org, before, limit), conn| {
                Box::pin(async move { history::list(conn, org, *before, *limit).await })
            })
            .await
    }

    fn list(&self) -> Listing {
        let next = |(db, after): (PgDb, String)| async move {
            let page = db.read(Scope::EveryTenant, &after, |after, conn| {
                Box::pin(async move { statements::list(conn, after).await })
            });
            let page = page.await?;
            let last = page.last().map(|listed| listed.org.to_string());
            Ok(last.map(|last| (page, (db, last))))
        };
        stream::try_unfold((self.db.clone(), String::new()), next).boxed()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.db.ping().await?)
    }

    fn follow(&self, shutdown: &Shutdown, mut on: OnEvent) -> Option<LastLook> {
        Some(self.db.follow(shutdown, move |event| on(event.into())))
    }

    async fn heard(&self, transaction: i64) -> bool {
        self.db.wait_for_followers(transaction, HEARD).await
    }
}
