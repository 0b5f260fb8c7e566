//! Everything that can go wrong with a request, mapped once to what callers see.

use std::time::Duration;

use pulse_kernel::{ApiError, Reason};
use pulse_rpc::ServiceError;
use pulse_store::{SqlErrorClass, StoreError};

use crate::domain::InvalidTransition;

/// When a retry may succeed: soon where someone else was quicker, later where the store has to recover or a purge
/// to end.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    /// There is no such organization, or none any more.
    #[error("the organization does not exist")]
    NotFound,
    /// Its status does not allow it.
    #[error(transparent)]
    Refused(#[from] InvalidTransition),
    /// It has changed since the caller looked.
    #[error("the etag is not the current one")]
    EtagMismatch,
    /// The id is, or was, another organization's.
    #[error("the organization id was used before")]
    IdTaken,
    /// The owner's email is another organization's.
    #[error("the owner's email belongs to another organization")]
    EmailTaken,
    /// The owner's email is that of an organization that is about to be gone.
    #[error("the owner's email belongs to an organization that is being purged")]
    EmailBeingFreed,
    /// Others kept changing it.
    #[error("the organization changed again and again while it was being changed")]
    Contended,
    /// The store did not do it.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl ServiceError for LifecycleError {
    fn to_api(&self) -> ApiError {
        match self {
            Self::NotFound => ApiError::new(Reason::OrgNotFound, "the organization does not exist"),
            Self::Refused(refusal) => ApiError::new(refusal.reason, refusal.to_string()),
            Self::EtagMismatch => ApiError::new(
                Reason::EtagMismatch,
                "the organization has changed; read it again and decide on what it is now",
            ),
            Self::IdTaken => ApiError::new(Reason::OrgIdTaken, "the organization id was used before"),
            Self::EmailTaken => {
                ApiError::new(Reason::EmailTaken, "the email address already has an organization")
            }
            Self::EmailBeingFreed => ApiError::new(
                Reason::Unavailable,
                "an organization with this email address is just being removed; try again",
            )
            .retry_after(LATER),
            Self::Contended => {
                ApiError::new(Reason::Unavailable, "the organization is being changed by others; try again")
                    .retry_after(SOON)
            }
            Self::Store(error) => of_store(error),
        }
    }
}

fn of_store(error: &StoreError) -> ApiError {
    if let StoreError::Overloaded(_) = error {
        return ApiError::new(Reason::Overloaded, "the store of organizations is at its capacity; try again")
            .retry_after(SOON);
    }
    match error.class() {
        _ if error.is_transient() => {
            ApiError::new(Reason::Unavailable, "the store of organizations does not answer; try again")
                .retry_after(LATER)
        }
        Some(SqlErrorClass::Decode | SqlErrorClass::Corrupt) => ApiError::new(
            Reason::StoredStateUnreadable,
            "a stored record cannot be read; quote the request id when you report it",
        ),
        Some(_) | None => ApiError::internal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_store_are_told_apart_by_what_a_caller_can_do() {
        for (error, reason) in [
            (StoreError::Unavailable("closed"), Reason::Unavailable),
            (StoreError::Overloaded("too many wait"), Reason::Overloaded),
            (StoreError::Ambiguous(None), Reason::Unavailable),
            (StoreError::Sql(sqlx::Error::PoolTimedOut), Reason::Unavailable),
            (StoreError::Sql(sqlx::Error::Decode("acme".into())), Reason::StoredStateUnreadable),
            (StoreError::Sql(sqlx::Error::RowNotFound), Reason::Internal),
            (StoreError::Panicked, Reason::Internal),
        ] {
            let api = LifecycleError::from(error).to_api();
            assert_eq!(api.reason(), reason);
            let may_help = matches!(reason, Reason::Unavailable | Reason::Overloaded);
            assert_eq!(api.retry_delay().is_some(), may_help);
            assert!(!api.message().contains("acme"), "nothing of the cause gets out");
        }
    }
}
