//! The store for more than one machine: a schema in PostgreSQL that several replicas use at once.
//!
//! | file | holds |
//! |---|---|
//! | here | opening it, and [`Store`] on its transactions |
//! | `writes` | what each write does in its transaction, and why that is safe beside those of other replicas |
//! | `sagas` | the journal's statements |
//! | `accounts` | the statements about accounts and their roles |
//!
//! A tenant's rows are seen and changed in transactions of that tenant only. What has to be looked for among all tenants, such
//! as an address or what is due, is read apart.

mod accounts;
mod sagas;
mod writes;

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{EmailAddress, Entropy, OrgId, UserId};
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    SqlErrorClass, StoreError,
    audit::{self, AuditRecord},
    postgres::{PgDb, PgOpenError, Schema, Scope},
};
use sqlx::migrate::Migrator;

use self::writes::{NotBegun, Salted};
use super::{Advance, AdvanceError, Begun, EmailHolder, RoleChange, SagaQuery, SetRolesError, Store};
use crate::{
    domain::Member,
    saga::{Saga, SagaId},
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What this service has in the database.
pub static SCHEMA: Schema = Schema {
    name: "pulse_provisioner",
    program: "pulse-provisioner",
    migrator: &MIGRATIONS,
    has_feed: false,
};

/// The store in PostgreSQL. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    db: PgDb,
    entropy: Arc<dyn Entropy>,
}

impl PostgresStore {
    /// Opens the schema. Leases are left as they are: other replicas hold them, and those of one that died run out.
    ///
    /// # Errors
    /// When the database cannot be reached, is not prepared for this program, or belongs to a newer one.
    pub async fn open(settings: &DatabaseSettings, entropy: Arc<dyn Entropy>) -> Result<Self, PgOpenError> {
        let db = PgDb::open(settings, &SCHEMA, Arc::clone(&entropy)).await?;
        Ok(Self { db, entropy })
    }

    fn salted<T>(&self, what: T) -> Salted<T> {
        Salted { what, entropy: Arc::clone(&self.entropy) }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    async fn close(&self) {
        self.db.close();
    }

    async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<EmailHolder>, StoreError> {
        self.db
            .read(Scope::EveryTenant, email, |email, conn| {
                Box::pin(async move {
                    if let Some(saga) = sagas::find_by_email(conn, email.canonical()).await? {
                        return Ok(Some(EmailHolder::Saga(Box::new(saga))));
                    }
                    let found = accounts::find_by_email(conn, email.canonical()).await?;
                    let Some(account) = found else { return Ok(None) };
                    let id = SagaId::purge(account.home_org_id.clone());
                    let purging = sagas::find(conn, &id).await?.is_some();
                    Ok(Some(EmailHolder::Account { account: Box::new(account), purging }))
                })
            })
            .await
    }

    async fn begin(&self, saga: Saga) -> Result<Begun, StoreError> {
        let org_id = saga.org_id.clone();
        let begun = self
            .db
            .write(&org_id, saga, |saga, conn| Box::pin(async move { writes::begin(saga, conn).await }));
        match begun.await {
            Ok(()) => Ok(Begun::Started),
            Err(NotBegun::Taken) => Ok(Begun::Taken),
            Err(NotBegun::Store(error)) => Err(error),
        }
    }

    async fn advance(&self, advance: Advance) -> Result<(), AdvanceError> {
        let org_id = advance.saga.org_id.clone();
        self.db
            .write(&org_id, self.salted(advance), |advance, conn| {
                Box::pin(async move { writes::advance(advance, conn).await })
            })
            .await
    }

    async fn find_saga(&self, id: &SagaId) -> Result<Option<Saga>, StoreError> {
        self.db
            .read(Scope::Tenant(&id.org_id), id, |id, conn| {
                Box::pin(async move { Ok(sagas::find(conn, id).await?) })
            })
            .await
    }

    async fn due_sagas(&self, now: Timestamp, limit: u32) -> Result<Vec<Saga>, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(now, limit), |&(now, limit), conn| {
                Box::pin(async move { Ok(sagas::due(conn, now, limit).await?) })
            })
            .await
    }

    async fn list_sagas(&self, query: SagaQuery) -> Result<Vec<Saga>, StoreError> {
        self.db
            .read(Scope::EveryTenant, &query, |query, conn| {
                Box::pin(async move { Ok(sagas::list(conn, query).await?) })
            })
            .await
    }

    async fn count_stuck(&self) -> Result<u64, StoreError> {
        self.db
            .read(Scope::EveryTenant, &(), |(), conn| {
                Box::pin(async move { Ok(sagas::count_stuck(conn).await?) })
            })
            .await
    }

    async fn find_member(&self, org_id: &OrgId, user_id: UserId) -> Result<Option<Member>, StoreError> {
        self.db
            .read(Scope::Tenant(org_id), &(org_id, user_id), |&(org_id, user_id), conn| {
                Box::pin(async move { Ok(accounts::find_member(conn, org_id, user_id).await?) })
            })
            .await
    }

    async fn find_login(&self, email: &EmailAddress) -> Result<Option<Member>, StoreError> {
        self.db
            .read(Scope::EveryTenant, email, |email, conn| {
                Box::pin(async move { Ok(accounts::find_login(conn, email.canonical()).await?) })
            })
            .await
    }

    async fn set_roles(&self, change: RoleChange) -> Result<(), SetRolesError> {
        let org_id = change.org_id.clone();
        let set = self.db.write(&org_id, self.salted(change), |change, conn| {
            Box::pin(async move { writes::set_roles(change, conn).await })
        });
        match set.await {
            // The account went with its own tenant after it was looked at.
            Err(SetRolesError::Store(error)) if error.class() == Some(SqlErrorClass::ForeignKeyViolation) => {
                Err(SetRolesError::UnknownAccount)
            }
            set => set,
        }
    }

    async fn list_audit(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.db
            .read(Scope::Tenant(org_id), &(org_id, before, limit), |&(org_id, before, limit), conn| {
                Box::pin(async move { Ok(audit::postgres::list(conn, org_id, before, limit).await?) })
            })
            .await
    }
}
