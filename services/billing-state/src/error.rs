//! Everything that can go wrong with a request, and what its caller sees of it.

use std::time::Duration;

use pulse_entitlements::SourceError;
use pulse_kernel::{ApiError, Reason};
use pulse_rpc::ServiceError;
use pulse_store::SqlErrorClass;

use crate::{domain::Refused, store::StoreError};

/// When a retry may succeed: soon where someone else was quicker, later where the store has to recover.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BillingError {
    /// The request breaks a rule, or its caller may not make it.
    #[error("the request is refused")]
    Refused(#[from] ApiError),
    /// A condition that the request names is not met.
    #[error(transparent)]
    Condition(#[from] Refused),
    /// The tenant has no state, or is gone.
    #[error("there is no billing state")]
    NotFound,
    /// The default organization is never purged.
    #[error("the default organization cannot be purged")]
    DefaultOrg,
    /// Others kept changing the state while the request tried to.
    #[error("the billing state kept changing")]
    Contended,
    /// The store refused or failed.
    #[error("the billing store refused or failed")]
    Store(#[from] StoreError),
    /// The work ended without an outcome.
    #[error("the work was cut off")]
    CutOff(#[source] tokio::task::JoinError),
}

impl From<SourceError> for BillingError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Purged => Self::NotFound,
        }
    }
}

impl ServiceError for BillingError {
    fn to_api(&self) -> ApiError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Condition(Refused::NotStored) | Self::NotFound | Self::Store(StoreError::Purged) => {
                ApiError::new(Reason::OrgNotFound, "there is no billing state of this organization")
            }
            Self::Condition(Refused::EtagMismatch) | Self::Store(StoreError::Conflict) => {
                ApiError::new(Reason::EtagMismatch, "the billing state has changed since it was read")
            }
            Self::DefaultOrg => {
                ApiError::new(Reason::DefaultOrgImmutable, "the default organization cannot be purged")
            }
            Self::Contended => {
                ApiError::new(Reason::Unavailable, "the billing state is changed by others; try again")
                    .retry_after(SOON)
            }
            Self::Store(error @ (StoreError::Unreadable { .. } | StoreError::BrokenChain { .. })) => {
                ApiError::new(Reason::StoredStateUnreadable, error.to_string())
            }
            Self::Store(StoreError::Failed { .. }) => unavailable(),
            Self::Store(StoreError::Database(error)) => of_database(error),
            Self::CutOff(_) => ApiError::internal(),
        }
    }
}

fn of_database(error: &pulse_store::StoreError) -> ApiError {
    if let pulse_store::StoreError::Overloaded(_) = error {
        return ApiError::new(Reason::Overloaded, "the billing store is at its capacity; try again")
            .retry_after(SOON);
    }
    match error.class() {
        _ if error.is_transient() => unavailable(),
        Some(SqlErrorClass::Decode | SqlErrorClass::Corrupt) => ApiError::new(
            Reason::StoredStateUnreadable,
            "a stored record cannot be read; quote the request id when you report it",
        ),
        Some(_) | None => ApiError::internal(),
    }
}

fn unavailable() -> ApiError {
    ApiError::new(Reason::Unavailable, "the billing store is unavailable; try again").retry_after(LATER)
}

#[cfg(test)]
mod tests {
    use pulse_kernel::ErrorKind;
    use pulse_store::StoreError as Database;

    use super::*;

    #[test]
    fn failures_of_the_store_are_told_apart_by_what_a_caller_can_do() {
        let failed =
            StoreError::Failed { action: "write acme".into(), source: std::io::Error::other("acme") };
        for (error, reason) in [
            (failed, Reason::Unavailable),
            (Database::Unavailable("acme is closed").into(), Reason::Unavailable),
            (Database::Overloaded("acme waits").into(), Reason::Overloaded),
            (Database::Ambiguous(None).into(), Reason::Unavailable),
            (sqlx::Error::PoolTimedOut.into(), Reason::Unavailable),
            (sqlx::Error::Decode("acme".into()).into(), Reason::StoredStateUnreadable),
            (sqlx::Error::RowNotFound.into(), Reason::Internal),
            (Database::Panicked.into(), Reason::Internal),
        ] {
            let api = BillingError::Store(error).to_api();
            assert_eq!(api.reason(), reason);
            let may_help = matches!(api.kind(), ErrorKind::Unavailable | ErrorKind::ResourceExhausted);
            assert_eq!(api.retry_delay().is_some(), may_help, "{reason:?}");
            assert!(!api.message().contains("acme"), "nothing of the cause gets out");
        }
        assert!(BillingError::Contended.to_api().retry_delay().is_some());
    }
}
