//! The two traits around an organization's status: where it is looked up, and who answers with it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use pulse_entitlements::Source;
use pulse_kernel::OrgId;

use crate::OrganizationStatus;

/// What lifecycle says about a tenant when it can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusLookup {
    /// This is its status.
    Status(OrganizationStatus),
    /// There is no such organization.
    NotFound,
    /// There was one; it was purged and stays gone.
    Purged,
}

/// Lifecycle did not say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StatusStoreError(
    /// What went wrong, for the log.
    pub String,
);

/// Where the status of an organization is looked up.
#[async_trait]
pub trait StatusStore: fmt::Debug + Send + Sync + 'static {
    /// The status of one organization, and its version: it grows with every change of this organization. 0 where there
    /// is none.
    ///
    /// # Errors
    /// When it cannot tell; "not found" is not an error.
    async fn status(&self, org: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError>;
}

/// A status, and how far to trust it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusAnswer {
    /// What lifecycle last said.
    pub status: OrganizationStatus,
    /// Where that came from; never [`Source::Default`], as there is no status by default.
    pub source: Source,
    /// How long ago lifecycle last said so.
    pub age: Duration,
    /// The organization's version.
    pub version: u64,
}

impl StatusAnswer {
    /// Whether lifecycle said so within the refresh age. Otherwise it does not answer, and this is what it last said.
    pub fn is_confirmed(&self) -> bool {
        match self.source {
            Source::Fresh | Source::Cached => true,
            Source::Stale | Source::Default => false,
        }
    }
}

/// Why there is no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StatusError {
    /// Lifecycle knows no such organization, or knows that it was purged.
    #[error("the organization does not exist")]
    NotFound,
    /// Lifecycle does not answer, and nothing is known that would still count: the tenant was never seen, or it was
    /// active too long ago.
    #[error("the organization's status is not known")]
    Unknown,
    /// Lifecycle does not answer, and the tenant may be one that was known to be closed: there were more of those than
    /// can be remembered. Never good enough to let anybody in.
    #[error("the organization's status was forgotten")]
    Forgotten,
}

/// Answers what status a tenant's organization has.
#[async_trait]
pub trait StatusSource: fmt::Debug + Send + Sync + 'static {
    /// The status now.
    ///
    /// # Errors
    /// When there is none.
    async fn status(&self, org: &OrgId) -> Result<StatusAnswer, StatusError>;

    /// The same where it takes no waiting: for hot paths, to be tried first.
    fn cached(&self, org: &OrgId) -> Option<Result<StatusAnswer, StatusError>> {
        let _ = org;
        None
    }

    /// The same by the text of an id, which is a well-formed one where there is an answer. A source that can look it up
    /// by its text answers without making an [`OrgId`] first.
    fn find(&self, org: &str) -> Option<(OrgId, Result<StatusAnswer, StatusError>)> {
        let org = OrgId::parse(org).ok()?;
        let answer = self.cached(&org)?;
        Some((org, answer))
    }
}
