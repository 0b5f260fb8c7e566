//! What each write does in its transaction. It is alone among the writes of its tenant, whichever replica they come from; and
//! every statement sees what was committed before it (`READ COMMITTED`).

use std::sync::Arc;

use pulse_kernel::{Entropy, UserId};
use pulse_store::{
    StoreError,
    audit::{self, AuditDraft, Salt},
    postgres::{Failure, turn_to, turn_to_every},
};
use sqlx::PgConnection;

use super::{accounts, sagas};
use crate::{
    domain::{Roles, may_replace},
    saga::{Saga, SagaId},
    store::{Advance, AdvanceError, Effect, RoleChange, SetRolesError, removal_record, roles_record, rows},
};

/// What is to be written, and what its audit records are salted from.
pub(super) struct Salted<T> {
    pub(super) what: T,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl<T> Salted<T> {
    async fn record(&self, conn: &mut PgConnection, draft: AuditDraft) -> Result<(), sqlx::Error> {
        audit::postgres::append(conn, draft, Salt::random(&*self.entropy)).await.map(|_| ())
    }
}

/// Why a saga did not begin, and left nothing behind.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotBegun {
    #[error("the tenant has such a saga, or someone has the address")]
    Taken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for NotBegun {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Failure for NotBegun {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Taken => None,
        }
    }
}

impl Failure for AdvanceError {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Fenced | Self::EmailTaken => None,
        }
    }
}

impl Failure for SetRolesError {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::UnknownAccount | Self::UnknownTenant | Self::LastOwner(_) => None,
        }
    }
}

/// Claims the address first, and looks for an account that has it after that, in a statement of its own. The other way around
/// an account could slip through: one that is not there yet when it is looked for, whose saga then commits it and lets go of the
/// claim in time for this one to get it. This way the claim waits for that saga, and what it committed is seen.
pub(super) async fn begin(saga: &Saga, conn: &mut PgConnection) -> Result<(), NotBegun> {
    if !sagas::insert(conn, saga).await? {
        return Err(NotBegun::Taken);
    }
    if let Some(email) = rows::claimed_email(saga) {
        turn_to_every(conn).await?;
        if accounts::has_email(conn, email).await? {
            return Err(NotBegun::Taken);
        }
    }
    Ok(())
}

pub(super) async fn advance(input: &Salted<Advance>, conn: &mut PgConnection) -> Result<(), AdvanceError> {
    let Advance { saga, effect, audit } = &input.what;
    let advanced = match effect {
        Effect::Forget => sagas::delete(conn, &saga.id(), saga.version).await?,
        Effect::None | Effect::InsertAccount(_) | Effect::DeleteAccount(_) | Effect::DeleteTenant => {
            sagas::update(conn, saga).await?
        }
    };
    if !advanced {
        return Err(AdvanceError::Fenced);
    }
    match effect {
        Effect::None | Effect::Forget => {}
        Effect::InsertAccount(account) => {
            if !accounts::insert(conn, account).await? {
                return Err(AdvanceError::EmailTaken);
            }
        }
        Effect::DeleteAccount(user_id) => delete_accounts(input, conn, Some(*user_id)).await?,
        Effect::DeleteTenant => {
            delete_accounts(input, conn, None).await?;
            audit::postgres::delete(conn, &saga.org_id).await?;
            sagas::delete_any(conn, &SagaId::provision(saga.org_id.clone())).await?;
        }
    }
    if let Some(draft) = audit {
        input.record(conn, draft.clone()).await?;
    }
    Ok(())
}

/// Deletes accounts of the saga's tenant, all roles in it, and the roles that those accounts have in other tenants, which is
/// recorded there.
///
/// The accounts go first. That makes a role that is being given to one of them wait, whichever tenant it is in, and fail once
/// this is committed; what was given before is seen and removed. Then the other tenants follow in the order of their ids, each
/// alone among its own writes. Two tenants that are purged at once and have guests in each other would wait for each other for
/// ever: the database ends one, and it is done again.
async fn delete_accounts(
    input: &Salted<Advance>,
    conn: &mut PgConnection,
    only: Option<UserId>,
) -> Result<(), sqlx::Error> {
    let Saga { org_id: home, updated_at: at, .. } = &input.what.saga;
    let deleted = accounts::delete(conn, home, only).await?;
    turn_to_every(conn).await?;
    for (org_id, user_id) in accounts::places_of(conn, &deleted).await? {
        turn_to(conn, &org_id).await?;
        // As they are now that nobody else changes them.
        let roles = accounts::roles(conn, &org_id, user_id).await?;
        if !roles.is_empty() {
            accounts::replace_roles(conn, &org_id, user_id, &Roles::default()).await?;
            input.record(conn, removal_record(org_id, user_id, &roles, *at)).await?;
        }
    }
    turn_to(conn, home).await
}

pub(super) async fn set_roles(
    input: &Salted<RoleChange>,
    conn: &mut PgConnection,
) -> Result<(), SetRolesError> {
    let change = &input.what;
    let RoleChange { org_id, user_id, roles, .. } = change;
    // A guest's account is another tenant's row until it has a place in this one.
    turn_to_every(conn).await?;
    let standing = accounts::standing(conn, org_id, *user_id).await?;
    turn_to(conn, org_id).await?;
    if !standing.exists {
        return Err(SetRolesError::UnknownAccount);
    }
    // Accounts tell a tenant that exists from one that never did, or was purged: those that call it home, also when its only
    // owner was a guest who went with another tenant. Only the default one begins without.
    let owners = standing.owners()?;
    if owners.is_empty() && !standing.is_home && !org_id.is_default() {
        return Err(SetRolesError::UnknownTenant);
    }
    let before = standing.roles()?;
    let others = owners.iter().filter(|owner| *owner != user_id).count();
    may_replace(&before, roles, others)?;
    if before != *roles {
        accounts::replace_roles(conn, org_id, *user_id, roles).await?;
        input.record(conn, roles_record(change, &before)).await?;
    }
    Ok(())
}
