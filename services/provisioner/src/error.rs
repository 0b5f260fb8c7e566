//! What can go wrong here, and what the outside sees of it.

use std::time::Duration;

use pulse_kernel::{ApiError, ErrorKind, Quota, Reason};
use pulse_rpc::ServiceError;
use pulse_store::StoreError;
use pulse_tenant_guard::DenyReason;

use crate::{hashing::HashingError, saga::Failure, store::SetRolesError};

/// What callers are told to wait when too much is going on, or a saga has not ended yet.
const SOON: Duration = Duration::from_secs(1);

/// What callers are told to wait for a tenant that is just being purged.
const LATER: Duration = Duration::from_secs(10);

/// What callers are told to wait for a saga that is stuck.
const MUCH_LATER: Duration = Duration::from_mins(1);

/// An error of this service.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionerError {
    /// The request breaks rules; it says which.
    #[error("the request is refused")]
    Refused(#[source] ApiError),
    /// Another service failed, or could not be reached.
    #[error("another service failed")]
    Peer(#[source] ApiError),
    /// The address has an account, or soon will, and the password is not its owner's.
    #[error("the email address already has an account")]
    EmailTaken,
    /// The saga was undone, for that cause.
    #[error("the provisioning was undone: {0}")]
    Undone(Failure),
    /// The caller's time is over before the saga is.
    #[error("the provisioning has not ended yet")]
    StillRunning,
    /// The saga is stuck.
    #[error("the provisioning is stuck")]
    Stuck,
    /// The tenant of that address is just being purged.
    #[error("the tenant is being purged")]
    Purging,
    /// As many sagas as there may be are under way.
    #[error("too many provisionings are under way")]
    Overloaded,
    /// The journal changed under several tries in a row.
    #[error("the journal keeps changing")]
    Contended,
    /// Too many sign-ins.
    #[error("the {policy} limit is met")]
    RateLimited {
        /// Which limit.
        policy: &'static str,
        /// How many the window admits.
        limit: u32,
        /// The window.
        window: Duration,
        /// When the next one is admitted.
        retry_after: Duration,
    },
    /// Unknown email or wrong password; nobody is told which.
    #[error("the email or the password is wrong")]
    BadCredentials,
    /// The tenant is closed.
    #[error(transparent)]
    Denied(#[from] DenyReason),
    /// There is no such account in this tenant.
    #[error("the account does not exist")]
    AccountNotFound,
    /// There is no such saga.
    #[error("the provisioning does not exist")]
    ProvisioningNotFound,
    /// The saga is not stuck, or is a purge that was to be abandoned.
    #[error("the saga is not stuck")]
    NotStuck,
    /// The roles were not replaced.
    #[error("the roles were not replaced")]
    Roles(#[from] SetRolesError),
    /// The password was not hashed.
    #[error("the password was not hashed")]
    Hashing(#[from] HashingError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl ServiceError for ProvisionerError {
    fn to_api(&self) -> ApiError {
        let say = |reason, message: &str| ApiError::new(reason, message);
        match self {
            Self::Refused(error) | Self::Peer(error) => error.clone(),
            Self::EmailTaken => say(Reason::EmailTaken, "the email address already has an account"),
            Self::Undone(cause) => undone(cause),
            Self::StillRunning => {
                unavailable("the tenant is still being made; the same request joins in", SOON)
            }
            Self::Stuck => unavailable("the tenant cannot be made at the moment", MUCH_LATER),
            Self::Purging => unavailable("the tenant is just being deleted; try again", LATER),
            Self::Contended => unavailable("too much is changing at once; try again", SOON),
            Self::RateLimited { policy, limit, window, retry_after } => {
                let quota =
                    Quota { policy: (*policy).to_owned(), limit: *limit, window_seconds: window.as_secs() };
                say(Reason::RateLimited, "too many attempts; try again later")
                    .retry_after(*retry_after)
                    .quota(quota)
            }
            Self::BadCredentials => say(Reason::Unauthenticated, "the email or the password is wrong"),
            Self::Denied(reason) => (*reason).into(),
            Self::AccountNotFound | Self::Roles(SetRolesError::UnknownAccount) => {
                say(Reason::AccountNotFound, "the account does not exist in this organization")
            }
            Self::ProvisioningNotFound => say(Reason::ProvisioningNotFound, "there is no such provisioning"),
            Self::NotStuck => {
                say(Reason::NotStuck, "only what is stuck can be retried, or a provisioning abandoned")
            }
            Self::Roles(SetRolesError::UnknownTenant) => {
                say(Reason::AccountNotFound, "the organization has no accounts")
            }
            Self::Roles(SetRolesError::LastOwner(_)) => {
                say(Reason::LastOwner, "the organization would be left without an owner")
            }
            Self::Overloaded | Self::Hashing(HashingError::Overloaded) => overloaded(),
            Self::Hashing(HashingError::Malformed | HashingError::Failed) => ApiError::internal(),
            Self::Store(error) | Self::Roles(SetRolesError::Store(error)) => store(error),
        }
    }
}

/// What the caller of an undone provisioning is told: its own mistake, or that it may try again.
fn undone(cause: &Failure) -> ApiError {
    match cause.reason.kind() {
        ErrorKind::InvalidArgument | ErrorKind::AlreadyExists if cause.reason != Reason::OrgIdTaken => {
            ApiError::new(cause.reason, cause.message.clone())
        }
        _ if cause.is_transient() => unavailable("the tenant could not be made; try again", SOON),
        _ => ApiError::internal(),
    }
}

fn store(error: &StoreError) -> ApiError {
    if matches!(error, StoreError::Overloaded(_)) {
        overloaded()
    } else if error.is_transient() {
        unavailable("the store is not available; try again", SOON)
    } else {
        ApiError::internal()
    }
}

fn overloaded() -> ApiError {
    ApiError::new(Reason::Overloaded, "too many requests at once; try again").retry_after(SOON)
}

fn unavailable(message: &str, retry_after: Duration) -> ApiError {
    ApiError::new(Reason::Unavailable, message).retry_after(retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_answer_says_when_to_come_back() {
        for (error, told) in [
            (StoreError::Overloaded("too many wait"), Reason::Overloaded),
            (StoreError::Unavailable("away"), Reason::Unavailable),
            (StoreError::Ambiguous(None), Reason::Unavailable),
            (StoreError::Sql(sqlx::Error::PoolTimedOut), Reason::Unavailable),
            (StoreError::Sql(sqlx::Error::RowNotFound), Reason::Internal),
            (StoreError::Panicked, Reason::Internal),
        ] {
            let error = ProvisionerError::Store(error).to_api();
            assert_eq!(error.reason(), told);
            assert_eq!(error.retry_delay().is_some(), told != Reason::Internal, "{told:?}");
        }
    }

    #[test]
    fn a_caller_learns_its_own_mistake_and_no_more() {
        for (cause, told) in [
            (Reason::EmailTaken, Reason::EmailTaken),
            (Reason::InvalidOrgName, Reason::InvalidOrgName),
            (Reason::Unavailable, Reason::Unavailable),
            (Reason::Internal, Reason::Unavailable),
            (Reason::OrgNotFound, Reason::Internal),
            (Reason::OrgIdTaken, Reason::Internal),
            (Reason::Unauthenticated, Reason::Internal),
        ] {
            let error = ProvisionerError::Undone(Failure::new(cause, "canary")).to_api();
            assert_eq!(error.reason(), told, "{cause:?}");
            assert!(error.kind() != ErrorKind::Unavailable || error.retry_delay().is_some());
        }
    }
}
