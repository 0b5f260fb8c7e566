//! What this service keeps: accounts, roles, the journal of its sagas and its audit chains.
//!
//! | file | holds |
//! |---|---|
//! | here | [`Store`]: one method is one transaction |
//! | [`sqlite`] | the embedded store |
//! | [`postgres`] | the store for more than one machine |
//! | `rows` | rows to and from domain types, for both |
//! | [`memory`] | a model of it in memory, with faults that can be injected |
//! | [`transfer`] | moving the embedded store into PostgreSQL |
//! | `conformance` | the tests that every store passes |

pub mod memory;
pub mod postgres;
mod rows;
pub mod sqlite;
pub mod transfer;

#[cfg(test)]
mod conformance;

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, UserId};
use pulse_store::{
    StoreError,
    audit::{AuditDraft, AuditRecord},
};

use crate::{
    domain::{Account, LastOwner, Member, Roles},
    saga::{Saga, SagaId, SagaKind},
};

pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

/// The name of this service in audit records of what it does on its own.
pub const SERVICE_ACTOR: &str = "service:provisioner";

/// Who has an email address.
#[derive(Debug, Clone)]
pub enum EmailHolder {
    /// A provisioning that has not ended.
    Saga(Box<Saga>),
    /// An account.
    Account {
        /// The account.
        account: Box<Account>,
        /// Whether its tenant is just being purged.
        purging: bool,
    },
}

/// Whether a saga could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Its journal row is there.
    Started,
    /// The tenant has one already, or another saga or an account has the address.
    Taken,
}

/// What a step changes in this store, in the commit of the journal's advance.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Nothing.
    None,
    /// The owner's account and its role come to be.
    InsertAccount(Account),
    /// The account that this saga made goes, if it is there, with all its roles anywhere, and all roles in its tenant. Roles in
    /// other tenants that go leave a record in the audit chains of those.
    DeleteAccount(UserId),
    /// Everything about the tenant goes, but the journal row itself: its accounts as above, its audit chain, the journal of its
    /// provisioning.
    DeleteTenant,
    /// The journal row itself goes.
    Forget,
}

/// One advance of a saga.
#[derive(Debug, Clone)]
pub struct Advance {
    /// The saga as it is to be, but for its version, which is the one that it is expected to have.
    pub saga: Saga,
    /// What else changes.
    pub effect: Effect,
    /// The record of it, if it is one that is recorded.
    pub audit: Option<AuditDraft>,
}

/// Why a saga did not advance.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// It does not have the expected version any more: someone else runs it.
    #[error("the saga was advanced by another runner")]
    Fenced,
    /// The account cannot be made: another has its address.
    #[error("another account has the email address")]
    EmailTaken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AdvanceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Roles to be replaced.
#[derive(Debug, Clone)]
pub struct RoleChange {
    /// In which tenant.
    pub org_id: OrgId,
    /// Whose.
    pub user_id: UserId,
    /// The roles from then on.
    pub roles: Roles,
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The request.
    pub request_id: Option<String>,
}

/// Why roles were not replaced.
#[derive(Debug, thiserror::Error)]
pub enum SetRolesError {
    /// There is no such account.
    #[error("the account does not exist")]
    UnknownAccount,
    /// Nobody has a place in the tenant, so it does not exist here: not yet, or not any more.
    #[error("the tenant does not exist")]
    UnknownTenant,
    /// The tenant keeps an owner.
    #[error(transparent)]
    LastOwner(#[from] LastOwner),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for SetRolesError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Which states a list of sagas shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// `running`.
    Running,
    /// `compensating`.
    Compensating,
    /// `done`.
    Done,
    /// `undone`.
    Undone,
    /// `stuck`.
    Stuck,
}

/// Where a page of sagas begins: after the saga made then, of that id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SagaCursor {
    /// When it was made, microseconds since the Unix epoch.
    pub created_at: i64,
    /// Its tenant.
    pub org_id: OrgId,
    /// Whether it is the purge.
    pub purge: bool,
}

impl SagaCursor {
    /// The cursor that leads to what follows `saga`.
    pub fn after(saga: &Saga) -> Self {
        Self {
            created_at: pulse_store::time::to_micros(saga.created_at),
            org_id: saga.org_id.clone(),
            purge: saga.subject.kind() == SagaKind::Purge,
        }
    }
}

/// A page of sagas.
#[derive(Debug, Clone, Default)]
pub struct SagaQuery {
    /// Only those in this state.
    pub state: Option<StateFilter>,
    /// Only those of this kind.
    pub kind: Option<SagaKind>,
    /// Only those after this one, newest first.
    pub after: Option<SagaCursor>,
    /// How many at the most.
    pub limit: u32,
}

/// The store. One method is one transaction; a write that fails has not happened, unless it is
/// [`StoreError::Ambiguous`].
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Whether the store can be used.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Finishes what is queued and refuses what comes later.
    async fn close(&self);

    /// Who has the address: the provisioning that goes on, else the account.
    async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<EmailHolder>, StoreError>;

    /// Begins a saga, unless its tenant has one of its kind or, for a provisioning, someone has the address.
    async fn begin(&self, saga: Saga) -> Result<Begun, StoreError>;

    /// Advances a saga by compare-and-set on its version, with the effect and the record of it.
    async fn advance(&self, advance: Advance) -> Result<(), AdvanceError>;

    /// One saga.
    async fn find_saga(&self, id: &SagaId) -> Result<Option<Saga>, StoreError>;

    /// Sagas whose next try is due and that nobody runs, longest due first.
    async fn due_sagas(&self, now: Timestamp, limit: u32) -> Result<Vec<Saga>, StoreError>;

    /// Sagas, newest first.
    async fn list_sagas(&self, query: SagaQuery) -> Result<Vec<Saga>, StoreError>;

    /// How many sagas are stuck.
    async fn count_stuck(&self) -> Result<u64, StoreError>;

    /// An account as seen from a tenant in which it has a role.
    async fn find_member(&self, org_id: &OrgId, user_id: UserId) -> Result<Option<Member>, StoreError>;

    /// The account with the address, as seen from its own tenant.
    async fn find_login(&self, email: &EmailAddress) -> Result<Option<Member>, StoreError>;

    /// Replaces an account's roles in one tenant and records it. Does and records nothing when they are those already.
    async fn set_roles(&self, change: RoleChange) -> Result<(), SetRolesError>;

    /// The tenant's audit records with a sequence below `before`, newest first.
    async fn list_audit(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError>;
}

/// The record of an account's roles in a tenant, before and after.
fn roles_record(change: &RoleChange, before: &Roles) -> AuditDraft {
    AuditDraft {
        org_id: change.org_id.clone(),
        at: change.at,
        actor: change.actor.clone(),
        action: "account_roles_changed".to_owned(),
        reason: change.reason.clone(),
        before: Some(roles_json(change.user_id, before)),
        after: Some(roles_json(change.user_id, &change.roles)),
        request_id: change.request_id.clone(),
    }
}

/// The record, in another tenant, of roles that go because the account's own tenant does.
fn removal_record(org_id: OrgId, user_id: UserId, before: &Roles, at: Timestamp) -> AuditDraft {
    AuditDraft {
        org_id,
        at,
        actor: SERVICE_ACTOR.to_owned(),
        action: "account_roles_changed".to_owned(),
        reason: Some("the account went with its own tenant".to_owned()),
        before: Some(roles_json(user_id, before)),
        after: Some(roles_json(user_id, &Roles::default())),
        request_id: None,
    }
}

fn roles_json(user_id: UserId, roles: &Roles) -> serde_json::Value {
    let names: Vec<_> = roles.iter().map(pulse_tenant_guard::TenantRole::as_str).collect();
    serde_json::json!({ "user_id": user_id, "roles": names })
}
