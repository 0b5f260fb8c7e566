//! Everything that can go wrong with a signup.

use std::time::Duration;

use pulse_kernel::{ApiError, Quota, Reason};
use pulse_rpc::{ServiceError, from_status};
use tonic::Status;

use crate::convert::UnexpectedAnswer;

/// Why a signup came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignUpError {
    /// The request breaks a rule.
    #[error("the request is not valid")]
    Invalid(#[source] ApiError),
    /// The client has used up its allowance.
    #[error("the limit {:?} is met", quota.policy)]
    RateLimited { quota: Quota, retry_after: Duration },
    /// The provisioner refused, or could not be reached.
    #[error("the provisioner did not provision")]
    Provisioner(#[source] Status),
    /// The provisioner broke its contract.
    #[error("the provisioner's answer makes no sense")]
    Answer(#[source] UnexpectedAnswer),
}

impl ServiceError for SignUpError {
    fn to_api(&self) -> ApiError {
        match self {
            Self::Invalid(error) => error.clone(),
            Self::RateLimited { quota, retry_after } => ApiError::new(
                Reason::RateLimited,
                "too many requests from this address; wait before the next one",
            )
            .quota(quota.clone())
            .retry_after(*retry_after),
            Self::Provisioner(status) => from_status(status),
            Self::Answer(_) => ApiError::internal(),
        }
    }
}
