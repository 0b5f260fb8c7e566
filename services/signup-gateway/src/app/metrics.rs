//! What came of the attempts. No label says who tried.

use opentelemetry::{KeyValue, metrics::Counter};
use pulse_kernel::{ApiError, ErrorKind, Reason};
use pulse_rpc::ServiceError as _;

use crate::{
    domain::{Origin, Tenant},
    error::SignUpError,
};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Existing,
    EmailTaken,
    Invalid,
    RateLimited,
    Overloaded,
    Unavailable,
    /// The caller went away, or its time was over.
    Abandoned,
    /// Something unexpected.
    Failed,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Created,
        Self::Existing,
        Self::EmailTaken,
        Self::Invalid,
        Self::RateLimited,
        Self::Overloaded,
        Self::Unavailable,
        Self::Abandoned,
        Self::Failed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Existing => "existing",
            Self::EmailTaken => "email_taken",
            Self::Invalid => "invalid",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Abandoned => "abandoned",
            Self::Failed => "failed",
        }
    }

    fn of(result: &Result<Tenant, SignUpError>) -> Self {
        match result {
            Ok(tenant) => match tenant.origin {
                Origin::Created => Self::Created,
                Origin::Existing => Self::Existing,
            },
            Err(error) => Self::of_error(&error.to_api()),
        }
    }

    fn of_error(error: &ApiError) -> Self {
        match error.kind() {
            ErrorKind::InvalidArgument => Self::Invalid,
            ErrorKind::AlreadyExists if error.reason() == Reason::EmailTaken => Self::EmailTaken,
            ErrorKind::ResourceExhausted if error.reason() == Reason::RateLimited => Self::RateLimited,
            ErrorKind::ResourceExhausted => Self::Overloaded,
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => Self::Unavailable,
            ErrorKind::AlreadyExists
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::FailedPrecondition
            | ErrorKind::Aborted
            | ErrorKind::DataLoss
            | ErrorKind::Internal => Self::Failed,
        }
    }
}

/// The counters of this service.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    sign_ups: Counter<u64>,
    attempts: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = pulse_runtime::telemetry::meter("pulse-signup-gateway");
        let sign_ups = meter
            .u64_counter("pulse_hosted_signups")
            .with_description("Signups that created a tenant")
            .build();
        let attempts = meter
            .u64_counter("pulse_hosted_signup_attempts")
            .with_description("Signups that were tried, by what came of them")
            .build();
        let metrics = Self { sign_ups, attempts };
        // From the first scrape on, so that the first signup is an increase and not a new series.
        metrics.sign_ups.add(0, &[]);
        for outcome in Outcome::ALL {
            metrics.count(outcome, 0);
        }
        metrics
    }

    /// Counts an attempt once: as it [`Attempt::ended`], or as abandoned.
    pub(crate) fn attempt(&self) -> Attempt<'_> {
        Attempt { metrics: self, outcome: Outcome::Abandoned }
    }

    fn count(&self, outcome: Outcome, by: u64) {
        self.attempts.add(by, &[KeyValue::new("outcome", outcome.as_str())]);
    }
}

/// An attempt under way.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    metrics: &'a Metrics,
    outcome: Outcome,
}

impl Attempt<'_> {
    pub(crate) fn ended(mut self, result: &Result<Tenant, SignUpError>) {
        self.outcome = Outcome::of(result);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.metrics.count(self.outcome, 1);
        if self.outcome == Outcome::Created {
            self.metrics.sign_ups.add(1, &[]);
        }
    }
}
