//! The embedded store: `provisioner.db`.
//!
//! | file | holds |
//! |---|---|
//! | here | opening it, and [`Store`] on its transactions |
//! | `sagas` | the journal's statements |
//! | `accounts` | the statements about accounts and their roles |

mod accounts;
mod sagas;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{EmailAddress, Entropy, OrgId, UserId};
use pulse_store::{
    OpenError, SqliteDb, StoreError,
    audit::{self, AuditRecord, Salt},
};
use sqlx::migrate::Migrator;

use super::{
    Advance, AdvanceError, Begun, Effect, EmailHolder, RoleChange, SagaQuery, SetRolesError, Store,
    removal_record, roles_record, rows,
};
use crate::{
    domain::{Member, may_replace},
    saga::{Saga, SagaId},
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The embedded store. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    db: SqliteDb,
    entropy: Arc<dyn Entropy>,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It was opened, but what a process that died had left could not be cleared.
    #[error("the leases of an earlier process could not be cleared")]
    Leases(#[source] StoreError),
}

impl SqliteStore {
    /// Opens the file at `path`, making it where it is missing. Only one process can have it open, so every lease in it
    /// is that of a process that has ended: it is cleared, and what was running is due at once.
    ///
    /// # Errors
    /// When it is in use, damaged, of a newer version, or cannot be opened.
    pub async fn open(path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, OpenStoreError> {
        let db = SqliteDb::open(path, &MIGRATIONS).await?;
        let cleared: Result<(), StoreError> =
            db.write(|conn| Box::pin(async move { Ok(sagas::clear_leases(conn).await?) })).await;
        cleared.map_err(OpenStoreError::Leases)?;
        Ok(Self { db, entropy })
    }

    fn salt(&self) -> Salt {
        Salt::random(&*self.entropy)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    async fn close(&self) {
        self.db.close().await;
    }

    async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<EmailHolder>, StoreError> {
        let email = email.canonical().to_owned();
        self.db
            .read(|conn| {
                Box::pin(async move {
                    if let Some(saga) = sagas::find_by_email(conn, &email).await? {
                        return Ok(Some(EmailHolder::Saga(Box::new(saga))));
                    }
                    let Some(account) = accounts::find_by_email(conn, &email).await? else { return Ok(None) };
                    let id = SagaId::purge(account.home_org_id.clone());
                    let purging = sagas::find(conn, &id).await?.is_some();
                    Ok(Some(EmailHolder::Account { account: Box::new(account), purging }))
                })
            })
            .await
    }

    async fn begin(&self, saga: Saga) -> Result<Begun, StoreError> {
        self.db
            .write(|conn| {
                Box::pin(async move {
                    if let Some(email) = rows::claimed_email(&saga)
                        && accounts::find_by_email(conn, email).await?.is_some()
                    {
                        return Ok(Begun::Taken);
                    }
                    let inserted = sagas::insert(conn, &saga).await?;
                    Ok(if inserted { Begun::Started } else { Begun::Taken })
                })
            })
            .await
    }

    async fn advance(&self, advance: Advance) -> Result<(), AdvanceError> {
        let entropy = Arc::clone(&self.entropy);
        let deletes = matches!(advance.effect, Effect::DeleteAccount(_) | Effect::DeleteTenant);
        let advanced = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let Advance { saga, effect, audit } = advance;
                    let advanced = match effect {
                        Effect::Forget => sagas::delete(conn, &saga.id(), saga.version).await?,
                        _ => sagas::update(conn, &saga).await?,
                    };
                    if !advanced {
                        return Err(AdvanceError::Fenced);
                    }
                    let only = match effect {
                        Effect::DeleteAccount(user_id) => Some(user_id),
                        _ => None,
                    };
                    if deletes {
                        for (org_id, user_id, roles) in accounts::guests_of(conn, &saga.org_id, only).await? {
                            let record = removal_record(org_id, user_id, &roles, saga.updated_at);
                            audit::sqlite::append(conn, record, Salt::random(&*entropy)).await?;
                        }
                    }
                    match effect {
                        Effect::None | Effect::Forget => {}
                        Effect::InsertAccount(account) => {
                            if !accounts::insert(conn, &account).await? {
                                return Err(AdvanceError::EmailTaken);
                            }
                        }
                        Effect::DeleteAccount(user_id) => {
                            accounts::delete(conn, &saga.org_id, user_id).await?;
                        }
                        Effect::DeleteTenant => {
                            accounts::delete_tenant(conn, &saga.org_id).await?;
                            audit::sqlite::delete(conn, &saga.org_id).await?;
                            sagas::delete_any(conn, &SagaId::provision(saga.org_id)).await?;
                        }
                    }
                    if let Some(draft) = audit {
                        audit::sqlite::append(conn, draft, Salt::random(&*entropy)).await?;
                    }
                    Ok(())
                })
            })
            .await;
        if deletes && advanced.is_ok() {
            // Addresses and hashes are to be in no file any more, the log included. They are deleted already, so a log that is
            // in use is no failure: the store says so, and the next deletion or the next start empties it.
            self.db.empty_log().await.ok();
        }
        advanced
    }

    async fn find_saga(&self, id: &SagaId) -> Result<Option<Saga>, StoreError> {
        let id = id.clone();
        self.db.read(|conn| Box::pin(async move { Ok(sagas::find(conn, &id).await?) })).await
    }

    async fn due_sagas(&self, now: Timestamp, limit: u32) -> Result<Vec<Saga>, StoreError> {
        self.db.read(|conn| Box::pin(async move { Ok(sagas::due(conn, now, limit).await?) })).await
    }

    async fn list_sagas(&self, query: SagaQuery) -> Result<Vec<Saga>, StoreError> {
        self.db.read(|conn| Box::pin(async move { Ok(sagas::list(conn, &query).await?) })).await
    }

    async fn count_stuck(&self) -> Result<u64, StoreError> {
        self.db.read(|conn| Box::pin(async move { Ok(sagas::count_stuck(conn).await?) })).await
    }

    async fn find_member(&self, org_id: &OrgId, user_id: UserId) -> Result<Option<Member>, StoreError> {
        let org_id = org_id.clone();
        self.db
            .read(|conn| {
                Box::pin(async move {
                    let roles = accounts::roles(conn, &org_id, user_id).await?;
                    if roles.is_empty() {
                        return Ok(None);
                    }
                    let account = accounts::find(conn, user_id).await?;
                    Ok(account.map(|account| Member { account, org_id, roles }))
                })
            })
            .await
    }

    async fn find_login(&self, email: &EmailAddress) -> Result<Option<Member>, StoreError> {
        let email = email.canonical().to_owned();
        self.db
            .read(|conn| {
                Box::pin(async move {
                    let Some(account) = accounts::find_by_email(conn, &email).await? else { return Ok(None) };
                    let org_id = account.home_org_id.clone();
                    let roles = accounts::roles(conn, &org_id, account.user_id).await?;
                    Ok(Some(Member { account, org_id, roles }))
                })
            })
            .await
    }

    async fn set_roles(&self, change: RoleChange) -> Result<(), SetRolesError> {
        let salt = self.salt();
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    if accounts::find(conn, change.user_id).await?.is_none() {
                        return Err(SetRolesError::UnknownAccount);
                    }
                    // Accounts tell a tenant that exists from one that never did, or was purged: those that call it home,
                    // also when its only owner was a guest who went with another tenant. Only the default one begins without.
                    let owners = accounts::owners(conn, &change.org_id).await?;
                    let home = accounts::is_home(conn, &change.org_id).await?;
                    if owners.is_empty() && !home && !change.org_id.is_default() {
                        return Err(SetRolesError::UnknownTenant);
                    }
                    let before = accounts::roles(conn, &change.org_id, change.user_id).await?;
                    let others = owners.iter().filter(|owner| **owner != change.user_id).count();
                    may_replace(&before, &change.roles, others)?;
                    if before == change.roles {
                        return Ok(());
                    }
                    accounts::replace_roles(conn, &change.org_id, change.user_id, &change.roles).await?;
                    audit::sqlite::append(conn, roles_record(&change, &before), salt).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn list_audit(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let org_id = org_id.clone();
        self.db
            .read(|conn| {
                Box::pin(async move { Ok(audit::sqlite::list(conn, &org_id, before, limit).await?) })
            })
            .await
    }
}
