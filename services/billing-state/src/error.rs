//! Everything that can go wrong with a request, and what its caller sees of it.

use pulse_entitlements::SourceError;
use pulse_kernel::{ApiError, Reason};
use pulse_rpc::ServiceError;

use crate::{domain::Refused, store::StoreError};

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
            }
            Self::Store(error @ (StoreError::Unreadable { .. } | StoreError::BrokenChain { .. })) => {
                ApiError::new(Reason::StoredStateUnreadable, error.to_string())
            }
            Self::Store(StoreError::Failed { .. }) => {
                ApiError::new(Reason::Unavailable, "the billing store is unavailable")
            }
            Self::CutOff(_) => ApiError::internal(),
        }
    }
}
