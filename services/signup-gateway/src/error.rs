//! Everything that can go wrong with a signup.

use std::time::Duration;

use pulse_kernel::{ApiError, Quota, Reason};
use pulse_rpc::{ServiceError, from_status};
use pulse_store::StoreError;
use tonic::Status;

use crate::convert::UnexpectedAnswer;

/// When a retry may succeed: soon where there is too much to do, later where the database has to recover.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

/// Why a signup came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignUpError {
    /// The request breaks a rule.
    #[error("the request is not valid")]
    Invalid(#[source] ApiError),
    /// The client has used up its allowance.
    #[error("the limit {:?} is met", quota.policy)]
    RateLimited { quota: Quota, retry_after: Duration },
    /// The store cannot say whether the client has; it then counts nothing.
    #[error("the signup limit cannot be checked")]
    Store(#[from] StoreError),
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
            Self::Store(error) => of_store(error),
            Self::Provisioner(status) => from_status(status),
            Self::Answer(_) => ApiError::internal(),
        }
    }
}

fn of_store(error: &StoreError) -> ApiError {
    match error {
        StoreError::Overloaded(_) => {
            ApiError::new(Reason::Overloaded, "too many signups at the moment; try again").retry_after(SOON)
        }
        _ if error.is_transient() => {
            ApiError::new(Reason::Unavailable, "signups are not possible at the moment; try again")
                .retry_after(LATER)
        }
        _ => ApiError::internal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_store_are_told_apart_by_what_a_caller_can_do() {
        for (error, reason, retry_after) in [
            (StoreError::Overloaded("many wait"), Reason::Overloaded, Some(SOON)),
            (StoreError::Unavailable("closed"), Reason::Unavailable, Some(LATER)),
            (StoreError::Ambiguous(None), Reason::Unavailable, Some(LATER)),
            (StoreError::Sql(sqlx::Error::PoolTimedOut), Reason::Unavailable, Some(LATER)),
            (StoreError::Sql(sqlx::Error::Decode("canary".into())), Reason::Internal, None),
            (StoreError::Panicked, Reason::Internal, None),
        ] {
            let api = SignUpError::from(error).to_api();
            assert_eq!((api.reason(), api.retry_delay()), (reason, retry_after));
            assert!(!api.message().contains("canary"), "nothing of the cause gets out");
        }
    }
}
