//! The two traits around the decision: where billing states come from, and who answers with entitlements.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use pulse_kernel::{ApiError, OrgId, Reason};

use crate::{BillingState, Entitlements, cache::Reading};

/// A billing state and how many changes it has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The state.
    pub state: BillingState,
    /// Grows with every change of this tenant's state; the first one is 1.
    pub revision: u64,
}

/// What a store says about a tenant when it can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// This is its state.
    Stored(Box<Stored>),
    /// No state was ever stored.
    NotStored,
    /// There was one; the tenant was purged and stays gone.
    Purged,
}

/// The store did not say.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BillingStoreError {
    /// What went wrong, for the log.
    pub message: String,
    /// The last state that is known all the same, say from the store's own history.
    pub last_known: Option<Box<Stored>>,
}

impl BillingStoreError {
    /// An error that knows nothing about the tenant.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), last_known: None }
    }
}

/// Where billing states are stored.
#[async_trait]
pub trait BillingStore: fmt::Debug + Send + Sync + 'static {
    /// The billing state of one tenant.
    ///
    /// # Errors
    /// When the store cannot tell; "none stored" is not an error.
    async fn billing_state(&self, org: &OrgId) -> Result<Lookup, BillingStoreError>;

    /// The same, and how long ago it was so at the most: for a store that answers out of somebody's memory, or with what
    /// somebody else was reading already.
    ///
    /// # Errors
    /// As [`billing_state`](Self::billing_state).
    async fn recalled(&self, org: &OrgId) -> Result<Reading<Lookup>, BillingStoreError> {
        self.billing_state(org).await.map(Reading::fresh)
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Read from the store for this answer.
    Fresh,
    /// From the cache, within its refresh age.
    Cached,
    /// The last known state: the store does not answer.
    Stale,
    /// No state is known, or none within the bound on staleness: what a trial grants.
    Default,
}

impl Source {
    /// How answers name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Cached => "cached",
            Self::Stale => "stale",
            Self::Default => "default",
        }
    }
}

/// Entitlements, and how far to trust them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the tenant may use.
    pub entitlements: Arc<Entitlements>,
    /// Where that came from.
    pub source: Source,
    /// How long ago the store last said so; zero when it never did.
    pub age: Duration,
    /// The state's revision; 0 when none is stored or known.
    pub revision: u64,
    /// Whether the store said so, within the refresh age. Otherwise it does not answer, and this is the best that is
    /// known without it.
    pub confirmed: bool,
}

/// Why there are no entitlements. A store that fails is not a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The tenant was purged.
    #[error("the organization was purged")]
    Purged,
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Purged => Self::new(Reason::OrgNotFound, "the organization does not exist"),
        }
    }
}

/// Answers what a tenant may use.
#[async_trait]
pub trait EntitlementSource: fmt::Debug + Send + Sync + 'static {
    /// The tenant's entitlements now.
    ///
    /// # Errors
    /// When the tenant is gone.
    async fn entitlements(&self, org: &OrgId) -> Result<Answer, SourceError>;

    /// The same where it takes no waiting: for hot paths, to be tried first.
    fn cached(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        let _ = org;
        None
    }
}
